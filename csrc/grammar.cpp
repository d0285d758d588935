#include "grammar.h"

#include <algorithm>

#include "deep_stack.h"
#include "errors.h"
#include "model.h"

namespace slipstream {

namespace {

// Of an output without a trigger so far; a match is shorter. llama.cpp itself searches all of it for every token.
constexpr size_t MAX_TAIL = 512;

// How deep parentheses of GBNF text are nested: llama.cpp's parser recurses for each.
size_t nesting(const std::string & grammar) {
    size_t depth = 0, deepest = 0;
    char closing = 0; // of the literal, character class or comment that this is in
    for (size_t i = 0; i < grammar.size(); i++) {
        const char c = grammar[i];
        if (closing != 0) {
            i += c == '\\' && closing != '\n' ? 1 : 0;
            closing = c == closing ? 0 : closing;
        } else if (c == '"' || c == '[' || c == '#') {
            closing = c == '"' ? '"' : c == '[' ? ']' : '\n';
        } else if (c == '(') {
            deepest = std::max(deepest, ++depth);
        } else if (c == ')' && depth > 0) {
            depth--;
        }
    }
    return deepest;
}

void check_grammar(const llama_vocab * vocab, const std::string & grammar) {
    constexpr size_t MAX_NESTING = 256;
    const char * what = grammar.find('\0') != std::string::npos ? "the grammar has a null character in it"
                        : nesting(grammar) > MAX_NESTING ? "the grammar nests parentheses more than 256 deep"
                        : llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE
                            ? "a grammar needs a model with a vocabulary"
                            : nullptr;
    if (what != nullptr) {
        throw Error("GrammarError", what, "grammar");
    }
}

llama_sampler * parse_grammar(const llama_vocab * vocab, const GrammarParams & params) {
    // Looking for left recursion recurses for each rule; a rule has at least six characters ("a::=b" and a line end).
    constexpr size_t FRAME_PER_CHARACTER = 64;
    std::vector<const char *> triggers;
    for (const std::string & trigger : params.triggers) {
        triggers.push_back(trigger.c_str());
    }
    const char * text = params.text.c_str();
    llama_sampler * sampler = nullptr;
    const auto parse = [&] {
        sampler = triggers.empty() ? llama_sampler_init_grammar(vocab, text, "root")
                                   : llama_sampler_init_grammar_lazy_patterns(
                                         vocab, text, "root", triggers.data(), triggers.size(), nullptr, 0);
    };
    guarded(
        "GrammarError", "the grammar does not parse",
        [&] { run_with_stack(params.text.size() * FRAME_PER_CHARACTER, parse); }, "grammar");
    if (sampler == nullptr) {
        throw Error("GrammarError", "the grammar does not parse as GBNF with a rule named root", "grammar");
    }
    return sampler;
}

} // namespace

Grammar::Grammar(const llama_vocab * vocab, GrammarParams params)
    : vocab_(vocab), params_(std::move(params)) {
    check_grammar(vocab_, params_.text);
    guarded(
        "GrammarError", "a trigger of the grammar is no regular expression",
        [&] {
            for (const std::string & trigger : params_.triggers) {
                triggers_.emplace_back(trigger);
            }
        },
        "grammar");
    fresh_.reset(parse_grammar(vocab_, params_));
    reset();
}

Grammar::Grammar(const Grammar & other)
    : vocab_(other.vocab_),
      params_(other.params_),
      triggers_(other.triggers_),
      fresh_(llama_sampler_clone(other.fresh_.get())),
      active_(other.active_ ? llama_sampler_clone(other.active_.get()) : nullptr),
      recent_(other.recent_),
      tail_(other.tail_),
      is_whole_(other.is_whole_),
      is_thinking_(other.is_thinking_) {}

void Grammar::reset() {
    forget();
    is_whole_ = true;
    is_thinking_ = params_.is_thinking;
    active_.reset();
    if (triggers_.empty()) {
        active_.reset(llama_sampler_clone(fresh_.get()));
        for (const int32_t token : params_.prefix) {
            accept_now(token);
        }
    }
}

bool Grammar::allows(int32_t token) const {
    llama_token_data one = {token, 1.0f, 0.0f};
    llama_token_data_array array = {&one, 1, -1, false};
    apply(array);
    return array.size == 1 && one.logit > 0.0f;
}

void Grammar::apply(llama_token_data_array & candidates) const {
    if (active_) {
        llama_sampler_apply(active_.get(), &candidates);
    }
}

void Grammar::accept(int32_t token) {
    if (active_) {
        accept_now(token);
        return;
    }
    append(token);
    const auto holds = [&](const std::string & tag) { return tail_.find(tag) != std::string::npos; };
    if (is_thinking_) {
        const auto & ends = params_.thinking_ends;
        const auto end = std::find_if(ends.begin(), ends.end(), holds);
        if (end == ends.end()) {
            return;
        }
        is_thinking_ = false;
        if (is_trigger(*end)) { // a call ends it, without another word
            trigger();
        } else {
            forget();
        }
    } else if (!params_.thinking_start.empty() && holds(params_.thinking_start)) {
        is_thinking_ = true;
        forget();
    } else if (is_trigger(tail_)) {
        trigger();
    }
}

void Grammar::accept_now(int32_t token) {
    // Asked first: of a token that does not fit, llama.cpp dies or is left without a state.
    if (!allows(token)) {
        throw Error("GrammarError", format("the grammar does not allow token %d here", token), "token");
    }
    guarded(
        "GrammarError", "the grammar refuses the token", [&] { llama_sampler_accept(active_.get(), token); },
        "token");
}

void Grammar::append(int32_t token) {
    const size_t before = tail_.size();
    append_piece(vocab_, token, true, tail_);
    recent_.emplace_back(token, tail_.size() - before);
    size_t n_dropped = 0, n_bytes = 0;
    while (n_dropped + 1 < recent_.size() && tail_.size() - n_bytes > MAX_TAIL) {
        n_bytes += recent_[n_dropped++].second;
    }
    tail_.erase(0, n_bytes);
    recent_.erase(recent_.begin(), recent_.begin() + std::ptrdiff_t(n_dropped));
    is_whole_ = is_whole_ && n_dropped == 0;
}

void Grammar::forget() {
    recent_.clear();
    tail_.clear();
    is_whole_ = false;
}

bool Grammar::is_trigger(const std::string & text) const {
    for (size_t i = 0; i < triggers_.size(); i++) {
        const bool is_anchored = params_.triggers[i].front() == '^';
        if ((is_whole_ || !is_anchored) && std::regex_search(text, triggers_[i])) {
            return true;
        }
    }
    return false;
}

// Lets llama.cpp find the trigger, too, and go on from there.
void Grammar::trigger() {
    SamplerPtr sampler(llama_sampler_clone(fresh_.get()));
    try {
        for (const auto & [token, n_bytes] : recent_) {
            llama_sampler_accept(sampler.get(), token);
        }
        active_ = std::move(sampler);
    } catch (const std::runtime_error &) {
        // What came in one token with the trigger does not fit behind it, so this is no call but text.
    }
    forget();
}

} // namespace slipstream
