// A small model that guesses what the target will say, one token per call for any number of sequences. It has its own
// memory under the target's sequence ids and keeps there whatever still agrees with a sequence's text: accepted drafts
// are not computed again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "context.h"
#include "sampler.h"
#include "vocab_map.h"

namespace slipstream {

// In the target's vocabulary.
struct DraftToken {
    int32_t token = -1;
    float confidence = 0;     // probability of the draft model's likeliest token here, before any filter
    std::vector<Candidate> q; // what the token was drawn from, where it was; probabilities in `logit`
};

class Drafter {
  public:
    // `context` is the draft model's and must outlive this. `sampled`: draw drafts at random from the draft model's
    // own distribution and keep that, for rejection_sample; else they are what the target's sampler would pick from
    // the draft model's logits, with the random numbers it is going to use.
    Drafter(Context & context, VocabMap & map, bool sampled);
    Drafter(const Drafter &) = delete;
    Drafter & operator=(const Drafter &) = delete;

    // Text of a sequence, in the target's tokens.
    void open(int32_t seq_id, const std::vector<int32_t> & prompt);
    void accept(int32_t seq_id, int32_t token); // forgets the drafts
    void forget_drafts(int32_t seq_id);         // the next one follows the text
    void close(int32_t seq_id);                 // what is computed stays, for a text that begins alike

    // One more draft for each sequence, behind those since its last accept(). A sequence whose text is not computed yet
    // gets on with that instead: token -1, as where the draft model says what the target has no token for. Computes at
    // most `max_rows` tokens. `samplers[i]` is the target's of seq_ids[i].
    // Throws as Context::decode; the sequences concerned are computed anew the next time.
    std::vector<DraftToken> extend(const std::vector<int32_t> & seq_ids,
                                   const std::vector<Sampler *> & samplers, int32_t max_rows);
    // Tokens a sequence has to compute before its next draft. Throws InvalidBatchError for an id there is not.
    int32_t lag(int32_t seq_id) const;
    uint64_t n_computed() const { return n_computed_; } // tokens, so far
    // The drafts since the last accept(); the sequence has none afterwards.
    std::vector<DraftToken> take_drafts(int32_t seq_id);

  private:
    // All tokens here are the draft model's.
    struct Sequence {
        bool is_open = false;
        std::vector<int32_t> text;     // prompt and output
        std::vector<int32_t> drafted;  // behind it
        std::vector<int32_t> computed; // in memory
        size_t n_agreeing = 0;         // so many of `computed` are text + drafted
        std::vector<DraftToken> drafts;
        std::unique_ptr<Sampler> sampler; // of the drafts since the last accept()
    };

    int32_t wanted(const Sequence & sequence, size_t index) const;
    size_t n_wanted(const Sequence & sequence) const {
        return sequence.text.size() + sequence.drafted.size();
    }
    void settle(int32_t seq_id);
    void share_prefix(int32_t seq_id);
    void drop(int32_t seq_id);
    bool decode(const std::vector<int32_t> & tokens, const std::vector<int32_t> & positions,
                const std::vector<int32_t> & seq_ids, const std::vector<uint8_t> & outputs);
    bool make_room();
    DraftToken pick(Sequence & sequence, const Sampler & target, float * logits);

    Context & context_;
    VocabMap & map_;
    bool sampled_;
    std::vector<Sequence> sequences_;
    uint64_t n_computed_ = 0;
    std::vector<float> row_; // logits in the target's vocabulary
};

} // namespace slipstream
