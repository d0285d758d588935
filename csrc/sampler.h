// Choosing tokens from raw logits. The common parameters (bias, penalties, temperature, top-k, top-p, min-p) are our
// own code on the float row; anything else builds llama.cpp's sampler chain in its default order.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "candidates.h"
#include "grammar.h"
#include "llama.h"
#include "turn.h"

namespace slipstream {

struct SamplerParams {
    float temperature = 0.8f;
    int32_t top_k = 40;
    float top_p = 0.95f;
    float min_p = 0.05f;
    float typical_p = 1.0f;
    float top_n_sigma = -1.0f;
    float xtc_probability = 0.0f;
    float xtc_threshold = 0.1f;
    float dry_multiplier = 0.0f;
    float dry_base = 1.75f;
    int32_t dry_allowed_length = 2;
    int32_t dry_penalty_last_n = -1;
    std::vector<std::string> dry_sequence_breakers = {"\n", ":", "\"", "*"};
    float repeat_penalty = 1.0f;
    float presence_penalty = 0.0f;
    float frequency_penalty = 0.0f;
    int32_t repeat_last_n = 64;
    int32_t mirostat = 0;
    float mirostat_tau = 5.0f;
    float mirostat_eta = 0.1f;
    std::vector<std::pair<int32_t, float>> logit_bias;
    uint64_t seed = 0;
    GrammarParams grammar;
};

class Sampler {
  public:
    // Keeps a hold on the model: grammars and DRY read its vocabulary.
    // Throws GrammarError, InvalidRequestError (a parameter that is no number, a token that is not in the vocabulary).
    Sampler(std::shared_ptr<llama_model> model, const SamplerParams & params);

    // Picks a token. `logits` (n_vocab floats) is changed during the call and restored before it returns. A `mask` has a
    // bit for each token, the lowest of the first word first; only those with a set bit are possible.
    // Throws ComputeError if no token is possible (all logits -inf or NaN).
    int32_t sample(float * logits, const uint32_t * mask = nullptr);
    // Tells penalties, DRY and the grammar that `token` came next. Throws InvalidRequestError for a token that is not
    // in the vocabulary, GrammarError for one the grammar does not allow here; nothing has changed then.
    void accept(int32_t token);
    // The same for a prompt, which no grammar sees.
    void accept_prompt(const std::vector<int32_t> & tokens);
    void reset();
    // With the state, random numbers included.
    std::unique_ptr<Sampler> clone() const;
    // For guessing what this one will pick: the same state, without grammar and without llama.cpp's chain.
    std::unique_ptr<Sampler> clone_for_draft() const;

    // Whether distribution() tells how sample() picks: own code, a temperature, no grammar.
    bool has_distribution() const;
    // The possible tokens with their probabilities in `logit`, for logits as sample() takes them. Valid until the next
    // call. Empty if no token is possible.
    const std::vector<Candidate> & distribution(float * logits, const uint32_t * mask = nullptr);
    // The next random number, in [0, 1).
    double uniform();
    // Starts its random numbers anew.
    void reseed(uint64_t seed) { random_.seed(seed); }

    const SamplerParams & params() const { return params_; }
    int32_t n_vocab() const { return n_vocab_; }
    // For callers from several threads.
    Busy & busy() { return busy_; }

  private:
    struct Free {
        void operator()(llama_sampler * sampler) const { llama_sampler_free(sampler); }
    };
    using SamplerPtr = std::unique_ptr<llama_sampler, Free>;

    Sampler(const Sampler & other, bool for_draft);
    void check_params() const;
    void check_token(int32_t token, const char * field) const;
    void build_chain();
    bool filter(const float * logits);
    bool keep_mass(double mass);
    int32_t sample_own(const float * logits);
    int32_t sample_chain(const float * logits);
    int32_t pick(const float * logits);
    const float * masked(const float * logits, const uint32_t * mask);
    void adjust(float * logits);
    void restore(float * logits);
    void remember(int32_t token);

    std::shared_ptr<llama_model> model_;
    const llama_vocab * vocab_;
    int32_t n_vocab_;
    SamplerParams params_;
    SamplerPtr chain_; // null: own code
    std::unique_ptr<Grammar> grammar_;
    std::mt19937_64 random_;
    std::deque<int32_t> recent_; // the last repeat_last_n tokens
    std::unordered_map<int32_t, int32_t> recent_counts_;
    std::vector<Candidate> undo_;        // original logits changed by adjust(), newest last
    std::vector<Candidate> candidates_;  // scratch of sample_own()
    std::vector<llama_token_data> data_; // scratch of sample_chain()
    std::vector<double> weights_;        // scratch of sample_own()
    std::vector<float> masked_;          // scratch of sample() and masked()
    Busy busy_;
};

} // namespace slipstream
