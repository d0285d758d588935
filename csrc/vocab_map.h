// How the tokens of a draft model's vocabulary read in the target's, and the other way round. Pure data once made.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "model.h"

namespace slipstream {

struct VocabDifference {
    int32_t token;
    std::string target, draft; // its spelling in each vocabulary
};

// Tokens are the same if they are spelled the same and both or neither are control tokens. Equal ids are looked at
// first; a token that sits elsewhere, or has another role's name (BOS, EOS, end of turn), is found by spelling or role.
class VocabMap {
  public:
    static constexpr size_t MAX_DIFFERENCES = 16;

    VocabMap(const Model & target, const Model & draft);

    // Ids mean the same in both, as far as both go.
    bool is_identical() const { return n_different_ == 0; }
    int32_t n_target() const { return int32_t(to_draft_.size()); }
    int32_t n_draft() const { return int32_t(to_target_.size()); }
    // Ids below both sizes that are spelled differently, and the first of them.
    int32_t n_different() const { return n_different_; }
    const std::vector<VocabDifference> & differences() const { return differences_; }
    // Draft tokens that have an equal in the target.
    int32_t n_shared() const { return n_shared_; }

    int32_t to_target(int32_t draft_token) const { return to_target_[size_t(draft_token)]; } // -1: none
    // Appends the draft tokens that spell a target token: one, or what its text is tokenized to.
    void append_draft(int32_t target_token, std::vector<int32_t> & out);
    // What the draft model wants before a text that has no such token itself; -1 for nothing.
    int32_t leading_token() const { return leading_; }

  private:
    std::shared_ptr<llama_model> target_, draft_;
    std::vector<int32_t> to_target_, to_draft_;
    std::unordered_map<int32_t, std::vector<int32_t>>
        spelled_; // target tokens without an equal, made when asked for
    std::vector<VocabDifference> differences_;
    int32_t n_different_ = 0, n_shared_ = 0, leading_ = -1;
};

} // namespace slipstream
