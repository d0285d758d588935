#include "vocab_map.h"

#include <algorithm>
#include <utility>

#include "llama.h"

namespace slipstream {

namespace {

std::string spelling(const llama_vocab * vocab, int32_t token) {
    std::string text;
    append_piece(vocab, token, true, text);
    return text;
}

bool is_control(const llama_vocab * vocab, int32_t token) {
    return llama_vocab_is_control(vocab, token) || llama_vocab_is_eog(vocab, token);
}

} // namespace

VocabMap::VocabMap(const Model & target, const Model & draft)
    : target_(target.handle()), draft_(draft.handle()) {
    const llama_vocab * t = llama_model_get_vocab(target_.get());
    const llama_vocab * d = llama_model_get_vocab(draft_.get());
    to_draft_.assign(size_t(llama_vocab_n_tokens(t)), -1);
    to_target_.assign(size_t(llama_vocab_n_tokens(d)), -1);
    std::vector<int32_t> unmatched;
    for (int32_t id = 0; id < n_draft(); id++) {
        if (id >= n_target()) {
            unmatched.push_back(id);
            continue;
        }
        std::string text = spelling(d, id), other = spelling(t, id);
        if (text == other && is_control(t, id) == is_control(d, id)) {
            to_target_[size_t(id)] = id;
            to_draft_[size_t(id)] = id;
            continue;
        }
        unmatched.push_back(id);
        n_different_++;
        if (differences_.size() < MAX_DIFFERENCES) {
            differences_.push_back({id, std::move(other), std::move(text)});
        }
    }
    if (n_different_ > 0) {
        std::unordered_map<std::string, int32_t> free_targets; // the lowest id of each spelling
        for (int32_t id = n_target() - 1; id >= 0; id--) {
            if (to_draft_[size_t(id)] < 0) {
                free_targets[(is_control(t, id) ? "c" : "t") + spelling(t, id)] = id;
            }
        }
        for (const int32_t id : unmatched) {
            const auto found = free_targets.find((is_control(d, id) ? "c" : "t") + spelling(d, id));
            if (found != free_targets.end()) {
                to_target_[size_t(id)] = found->second;
                to_draft_[size_t(found->second)] = id;
                free_targets.erase(found);
            }
        }
        const std::pair<int32_t, int32_t> roles[] = {
            {llama_vocab_bos(t), llama_vocab_bos(d)},
            {llama_vocab_eos(t), llama_vocab_eos(d)},
            {llama_vocab_eot(t), llama_vocab_eot(d)},
        };
        for (const auto & [target_id, draft_id] : roles) {
            if (target_id >= 0 && draft_id >= 0 && to_draft_[size_t(target_id)] < 0) {
                to_draft_[size_t(target_id)] = draft_id;
                if (to_target_[size_t(draft_id)] < 0) {
                    to_target_[size_t(draft_id)] = target_id;
                }
            }
        }
    }
    n_shared_ = int32_t(
        std::count_if(to_target_.begin(), to_target_.end(), [](int32_t token) { return token >= 0; }));
    if (llama_vocab_get_add_bos(d) && !llama_vocab_get_add_bos(t)) {
        leading_ = llama_vocab_bos(d);
    }
}

void VocabMap::append_draft(int32_t target_token, std::vector<int32_t> & out) {
    const int32_t token = to_draft_[size_t(target_token)];
    if (token >= 0) {
        out.push_back(token);
        return;
    }
    const auto [entry, is_new] = spelled_.try_emplace(target_token);
    if (is_new) {
        const llama_vocab * t = llama_model_get_vocab(target_.get());
        const llama_vocab * d = llama_model_get_vocab(draft_.get());
        std::string text;
        append_piece(t, target_token, false,
                     text); // a control token of the target alone says nothing to the draft
        std::vector<int32_t> & tokens = entry->second;
        tokens.resize(text.size() + 2);
        const int32_t n =
            guarded("InvalidRequestError", "the draft model cannot tokenize a token of the target", [&] {
                return llama_tokenize(d, text.data(), int32_t(text.size()), tokens.data(),
                                      int32_t(tokens.size()), false, false);
            });
        tokens.resize(size_t(std::max(n, 0)));
    }
    out.insert(out.end(), entry->second.begin(), entry->second.end());
}

} // namespace slipstream
