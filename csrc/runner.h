// One engine step as one call: build the batch, decode, sample every row that asks for it, turn tokens into bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "context.h"
#include "drafter.h"
#include "ngram_index.h"
#include "sampler.h"

namespace slipstream {

struct TopLogprob {
    int32_t token;
    std::string piece;
    double logprob;
};

struct RowResult {
    int32_t token = -1;
    bool is_eog = false;
    std::string piece;
    bool has_logprob = false;
    double logprob = 0;
    std::vector<TopLogprob> top;
};

// Sequence s of a step: counts[s] tokens from `tokens`, the first at position starts[s].
struct Step {
    std::vector<int32_t> seq_ids;
    std::vector<int32_t> starts;
    std::vector<int32_t> counts;
    std::vector<int32_t> tokens;
    std::vector<uint8_t> sample;
    // How many of a sequence's tokens, the last ones, are drafts to verify; needs `sample`. Empty means none.
    std::vector<int32_t> drafts;
    // For each sequence its first mask among `masks`, or -1; it has one for each token to be sampled: one, and one more
    // for each draft. Empty means none. See Sampler::sample.
    std::vector<int32_t> mask_rows;
    const uint32_t * masks = nullptr;
    size_t n_masks = 0;
    size_t n_mask_words = 0; // of each mask
    // Called when the masks are needed; they may be written until it returns.
    std::function<void()> wait_masks = nullptr;
};

// Why a sequence could not be sampled: of its own parameters, so the others of the step are not concerned.
struct RowError {
    int32_t sequence; // index among those with `sample`
    std::string kind; // of Error
    std::string message;
};

// `counts[i]` rows belong to the i-th sequence with `sample`: one, and one more for each draft that was accepted; fewer
// where `errors` has it.
struct StepResult {
    std::vector<RowResult> rows;
    std::vector<int32_t> counts;
    std::vector<RowError> errors;
};

// Tokens that may come next because they did before, after the same `match` tokens.
struct Proposal {
    int32_t match = 0;
    std::vector<int32_t> tokens;
};

class Runner {
  public:
    // The context and the drafter must outlive the runner (the binding keeps them alive). Every call takes the context:
    // a second thread gets ContextBusyError.
    // `ngram` keeps an index of each sequence's tokens for propose(), `shared` one of what all sequences have said, too.
    explicit Runner(Context & context, bool ngram = false, bool shared = false, Drafter * drafter = nullptr);
    Runner(const Runner &) = delete;
    Runner & operator=(const Runner &) = delete;

    // `n_logprobs` < 0: none. `special` renders control tokens as text, too.
    void open_sequence(int32_t seq_id, const SamplerParams & params, int32_t n_logprobs, bool special,
                       const std::vector<int32_t> & prompt);
    // Tokens that came next without being sampled. Throws GrammarError; those before the fault are accepted then.
    void accept(int32_t seq_id, const std::vector<int32_t> & tokens);
    void close_sequence(int32_t seq_id); // of a closed context, too
    // Keeps the first n_tokens of the sequence. False if this memory cannot; clearing never fails.
    bool trim(int32_t seq_id, int32_t n_tokens);

    // Computes and samples. A draft is accepted if it is what the sequence's own sampler picks in its place, so the
    // tokens are those of plain steps, with the same random numbers; behind the first that is not, drafts are taken
    // out of memory again. Drafts that draft() has drawn at random are judged by rejection_sample instead. Errors as
    // Context::decode; a sequence whose sampler fails has its error in the result; its computed tokens stay in memory, drafts as above.
    StepResult step(const Step & step);

    // Up to `max_tokens` drafts for each sequence, from its text so far with drafts[i] behind it; `drafts` may be
    // empty. None without `ngram`.
    std::vector<Proposal> propose(const std::vector<int32_t> & seq_ids, int32_t max_tokens,
                                  const std::vector<std::vector<int32_t>> & drafts) const;
    // One more draft of the drafter for each sequence; see Drafter::extend. Throws InvalidRequestError without one.
    std::vector<DraftToken> draft(const std::vector<int32_t> & seq_ids, int32_t max_rows);

  private:
    struct Slot {
        std::unique_ptr<Sampler> sampler;
        int32_t n_logprobs = -1;
        bool special = false;
        size_t n_prompt = 0;
        NgramIndex index;
    };

    void accept(Slot & slot, int32_t seq_id, int32_t token);
    RowResult sample_row(int32_t seq_id, float * logits, const DraftToken * draft, const uint32_t * mask);
    int32_t choose(Slot & slot, float * logits, const DraftToken * draft, const uint32_t * mask);
    void check_masks(const Step & step) const;
    void verify(const Step & step, int32_t first, size_t s, StepResult & result);

    Context & context_;
    bool ngram_, shared_;
    Drafter * drafter_;
    std::vector<Slot> slots_;
    // Outputs of closed sequences, with `shared`: the latest, and about as many before them.
    NgramIndex heard_, heard_before_;
    std::vector<int32_t> positions_, seq_ids_; // scratch of step()
    std::vector<uint8_t> outputs_;
    std::vector<std::pair<int32_t, size_t>> rows_; // batch index of the first output, index in the step
    std::vector<Candidate> candidates_;
    std::vector<float> scratch_; // of rejection_sample, all zero
};

} // namespace slipstream
