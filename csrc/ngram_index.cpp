#include "ngram_index.h"

#include <algorithm>

namespace slipstream {

// FNV-1a over whole tokens with a final mix (splitmix64's).
uint64_t NgramIndex::key(const int32_t * begin, int32_t length) {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (int32_t i = 0; i < length; i++) {
        hash = (hash ^ uint32_t(begin[i])) * 0x100000001b3ULL;
    }
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ULL;
    return hash ^ (hash >> 27);
}

void NgramIndex::append(int32_t token) {
    // The n-grams that end here get their continuation with this token, so that the newest suffix never finds itself.
    const size_t end = tokens_.size();
    for (size_t l = 0; l < NUM_LENGTHS; l++) {
        if (end >= size_t(LENGTHS[l])) {
            next_of_[l][key(&tokens_[end - size_t(LENGTHS[l])], LENGTHS[l])] = uint32_t(end);
        }
    }
    tokens_.push_back(token);
}

void NgramIndex::append(const std::vector<int32_t> & tokens, size_t from) {
    for (size_t i = from; i < tokens.size(); i++) {
        append(tokens[i]);
    }
}

int32_t NgramIndex::propose(const NgramIndex & text, const std::vector<int32_t> & behind, int32_t max_tokens,
                            std::vector<int32_t> & draft) const {
    draft.clear();
    // The end of the text, as much as a match is measured in.
    std::vector<int32_t> suffix;
    const size_t n_own = std::min(text.tokens_.size(), size_t(MAX_MATCH));
    suffix.reserve(n_own + behind.size());
    suffix.insert(suffix.end(), text.tokens_.end() - int64_t(n_own), text.tokens_.end());
    suffix.insert(suffix.end(), behind.begin(), behind.end());
    for (size_t l = 0; l < NUM_LENGTHS && max_tokens > 0; l++) {
        const int32_t length = LENGTHS[l];
        if (suffix.size() < size_t(length)) {
            continue;
        }
        const auto found = next_of_[l].find(key(&suffix[suffix.size() - size_t(length)], length));
        if (found == next_of_[l].end()) {
            continue;
        }
        const size_t next = found->second;
        const size_t most = std::min({size_t(MAX_MATCH), next, suffix.size()});
        size_t match = 0;
        while (match < most && tokens_[next - 1 - match] == suffix[suffix.size() - 1 - match]) {
            match++;
        }
        if (match < size_t(length)) {
            continue; // a collision of hashes
        }
        for (size_t i = 0; i < size_t(max_tokens); i++) {
            const size_t end = tokens_.size();
            if (next + i < end) {
                draft.push_back(tokens_[next + i]);
            } else if (&text == this && behind.empty()) {
                draft.push_back(draft[next + i - end]);
            } else {
                break; // what would come round is not this text
            }
        }
        return int32_t(match);
    }
    return 0;
}

} // namespace slipstream
