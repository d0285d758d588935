// One engine step as one call: build the batch, decode, sample every row that asks for it, turn tokens into bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "context.h"
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
};

class Runner {
  public:
    // The context must outlive the runner (the binding keeps it alive). Every call takes it: a second thread gets
    // ContextBusyError.
    explicit Runner(Context & context);
    Runner(const Runner &) = delete;
    Runner & operator=(const Runner &) = delete;

    // `n_logprobs` < 0: none. `special` renders control tokens as text, too.
    void open_sequence(int32_t seq_id, const SamplerParams & params, int32_t n_logprobs, bool special,
                       const std::vector<int32_t> & prompt);
    void close_sequence(int32_t seq_id); // of a closed context, too
    // Keeps the first n_tokens of the sequence. False if this memory cannot; clearing never fails.
    bool trim(int32_t seq_id, int32_t n_tokens);

    // One result per sequence with `sample`, in order. Errors as Context::decode; a sampler's error leaves the
    // computed tokens in memory and is reported for the whole step.
    std::vector<RowResult> step(const Step & step);

  private:
    struct Slot {
        std::unique_ptr<Sampler> sampler;
        int32_t n_logprobs = -1;
        bool special = false;
    };

    RowResult sample_row(Slot & slot, float * logits);

    Context & context_;
    std::vector<Slot> slots_;
    std::vector<int32_t> positions_, seq_ids_; // scratch of step()
    std::vector<uint8_t> outputs_;
    std::vector<std::pair<int32_t, int32_t>> rows_; // batch index, sequence id
    std::vector<Candidate> candidates_;
};

} // namespace slipstream
