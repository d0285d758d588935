// GBNF text to llama.cpp's grammar sampler, past the texts and the outputs its code dies of.
#pragma once

#include <memory>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "llama.h"

namespace slipstream {

struct GrammarParams {
    std::string text; // GBNF with a rule named root; "" for none
    // Regular expressions: nothing is constrained before one of them is found in the output, which the grammar then
    // holds from the match's first group on. Empty: from the first token.
    std::vector<std::string> triggers;
    // Between these, triggers mean nothing: a model that thinks about a call makes none. Empty for no such part.
    std::string thinking_start;
    std::vector<std::string> thinking_ends;
    bool is_thinking = false; // the prompt ends within such a part
    // Taken for said already, without triggers.
    std::vector<int32_t> prefix;
};

// How far one output has come in its grammar.
class Grammar {
  public:
    // Throws GrammarError.
    Grammar(const llama_vocab * vocab, GrammarParams params);
    Grammar(const Grammar & other);
    Grammar & operator=(const Grammar &) = delete;

    bool allows(int32_t token) const;
    // Gives what is not allowed a logit of -inf.
    void apply(llama_token_data_array & candidates) const;
    // Throws GrammarError for a token that is not allowed; nothing has changed then.
    void accept(int32_t token);
    void reset();

  private:
    struct Free {
        void operator()(llama_sampler * sampler) const { llama_sampler_free(sampler); }
    };
    using SamplerPtr = std::unique_ptr<llama_sampler, Free>;

    void accept_now(int32_t token);
    void append(int32_t token);
    void forget();
    bool is_trigger(const std::string & text) const;
    void trigger();

    const llama_vocab * vocab_;
    GrammarParams params_;
    std::vector<std::regex> triggers_;
    SamplerPtr fresh_;  // at its beginning
    SamplerPtr active_; // null before a trigger
    // Before one: the last tokens and how many bytes each is, and their text.
    std::vector<std::pair<int32_t, size_t>> recent_;
    std::string tail_;
    bool is_whole_ = true; // tail_ is all there is, so `^` means the start of the output
    bool is_thinking_ = false;
};

} // namespace slipstream
