// What followed the last few tokens the last time they occurred: drafts for text that repeats itself (code edits,
// quotes, summaries), at no model's cost. Prompt lookup decoding (Saxena 2023) with the longest of several match
// lengths and verified matches. Pure logic, no llama.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace slipstream {

class NgramIndex {
  public:
    // Longest match that is measured; longer ones count as this long.
    static constexpr int32_t MAX_MATCH = 32;

    // O(number of n-gram lengths) per token, some 100 bytes of memory each.
    void append(int32_t token);
    // Appends tokens[from] and those behind it.
    void append(const std::vector<int32_t> & tokens, size_t from = 0);

    // Fills `draft` with up to `max_tokens` tokens that followed the most recent earlier occurrence of the longest
    // suffix of what `text` holds and `behind` it, going round where the continuation runs into the end of itself.
    // `text` may be this index. Returns the length of the match, 0 for none (`draft` is empty then).
    int32_t propose(const NgramIndex & text, const std::vector<int32_t> & behind, int32_t max_tokens,
                    std::vector<int32_t> & draft) const;

    const std::vector<int32_t> & tokens() const { return tokens_; }
    size_t size() const { return tokens_.size(); }

  private:
    static constexpr int32_t LENGTHS[] = {8, 5, 3, 2};
    static constexpr size_t NUM_LENGTHS = sizeof(LENGTHS) / sizeof(LENGTHS[0]);

    static uint64_t key(const int32_t * begin, int32_t length);

    std::vector<int32_t> tokens_;
    // Hash of an n-gram to the position after its latest occurrence that has a token behind it.
    std::unordered_map<uint64_t, uint32_t> next_of_[NUM_LENGTHS];
};

} // namespace slipstream
