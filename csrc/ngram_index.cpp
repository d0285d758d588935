#include "ngram_index.h"

#include <algorithm>

namespace slipstream {

// Of the `length` tokens before `end`. FNV-1a over whole tokens with a final mix (splitmix64's).
uint64_t NgramIndex::key(size_t end, int32_t length) const {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (size_t i = end - size_t(length); i < end; i++) {
        hash = (hash ^ uint32_t(tokens_[i])) * 0x100000001b3ULL;
    }
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ULL;
    return hash ^ (hash >> 27);
}

void NgramIndex::append(int32_t token) {
    // The n-grams that end here get their continuation with this token, so that the newest suffix never finds itself.
    const size_t end = tokens_.size();
    for (size_t l = 0; l < NUM_LENGTHS; l++) {
        if (end >= size_t(LENGTHS[l])) {
            next_of_[l][key(end, LENGTHS[l])] = uint32_t(end);
        }
    }
    tokens_.push_back(token);
}

void NgramIndex::append(const std::vector<int32_t> & tokens) {
    tokens_.reserve(tokens_.size() + tokens.size());
    for (const int32_t token : tokens) {
        append(token);
    }
}

int32_t NgramIndex::propose(int32_t max_tokens, std::vector<int32_t> & draft) const {
    draft.clear();
    const size_t end = tokens_.size();
    for (size_t l = 0; l < NUM_LENGTHS && max_tokens > 0; l++) {
        const int32_t length = LENGTHS[l];
        if (end < size_t(length) + 1) {
            continue;
        }
        const auto found = next_of_[l].find(key(end, length));
        if (found == next_of_[l].end()) {
            continue;
        }
        const size_t next = found->second;
        int32_t match = 0;
        while (match < MAX_MATCH && size_t(match) < next &&
               tokens_[next - 1 - size_t(match)] == tokens_[end - 1 - size_t(match)]) {
            match++;
        }
        if (match < length) {
            continue; // a collision of hashes
        }
        for (size_t i = 0; i < size_t(max_tokens); i++) {
            draft.push_back(next + i < end ? tokens_[next + i] : draft[next + i - end]);
        }
        return match;
    }
    return 0;
}

} // namespace slipstream
