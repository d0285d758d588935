#include "drafter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "rejection.h"

namespace slipstream {

namespace {

constexpr size_t WORTH_SHARING = 32; // tokens that another sequence's memory must have ahead
constexpr uint64_t OTHER_STREAM = 0x9e3779b97f4a7c15ULL;

size_t n_common(const std::vector<int32_t> & a, const std::vector<int32_t> & b) {
    const size_t n = std::min(a.size(), b.size());
    return size_t(std::mismatch(a.begin(), a.begin() + int64_t(n), b.begin()).first - a.begin());
}

// Softmax probability of the largest; what is e^-16 of it and less is left out.
float top_probability(const float * logits, int32_t n) {
    const int32_t best = argmax(logits, n);
    if (best < 0) {
        return 0;
    }
    const float highest = logits[best], lowest = highest - 16.0f;
    float sum = 0;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] > lowest) {
            sum += std::exp(logits[i] - highest);
        }
    }
    return sum > 0 ? 1.0f / sum : 0.0f;
}

} // namespace

Drafter::Drafter(Context & context, VocabMap & map, bool sampled)
    : context_(context), map_(map), sampled_(sampled), sequences_(context.n_seq_max()) {
    if (context.n_vocab() != map.n_draft()) {
        throw Error("InvalidRequestError", format("the draft context has %d tokens and the vocabulary map %d",
                                                  context.n_vocab(), map.n_draft()));
    }
}

void Drafter::open(int32_t seq_id, const std::vector<int32_t> & prompt) {
    Context::Lease lease(context_);
    context_.check_seq(seq_id);
    Sequence & s = sequences_[size_t(seq_id)];
    s.is_open = true;
    s.text.clear();
    s.drafted.clear();
    s.drafts.clear();
    s.sampler.reset();
    if (map_.leading_token() >= 0) {
        s.text.push_back(map_.leading_token());
    }
    for (const int32_t token : prompt) {
        map_.append_draft(token, s.text);
    }
    s.n_agreeing = n_common(s.computed, s.text);
    share_prefix(seq_id);
}

void Drafter::close(int32_t seq_id) {
    Sequence & s = sequences_[size_t(seq_id)];
    s.is_open = false;
    s.text.clear();
    s.drafted.clear();
    s.drafts.clear();
    s.sampler.reset();
    s.n_agreeing = 0;
}

void Drafter::forget_drafts(int32_t seq_id) {
    Sequence & s = sequences_[size_t(seq_id)];
    if (!s.drafted.empty()) {
        // What was computed for the drafts counts again as far as the text turns out to be them.
        s.n_agreeing = std::min(s.n_agreeing, s.text.size());
        s.drafted.clear();
    }
    s.drafts.clear();
    s.sampler.reset();
}

void Drafter::accept(int32_t seq_id, int32_t token) {
    forget_drafts(seq_id);
    Sequence & s = sequences_[size_t(seq_id)];
    const size_t before = s.text.size();
    map_.append_draft(token, s.text);
    if (s.n_agreeing == before) {
        while (s.n_agreeing < std::min(s.text.size(), s.computed.size()) &&
               s.computed[s.n_agreeing] == s.text[s.n_agreeing]) {
            s.n_agreeing++;
        }
    }
}

std::vector<DraftToken> Drafter::take_drafts(int32_t seq_id) {
    return std::exchange(sequences_[size_t(seq_id)].drafts, {});
}

int32_t Drafter::lag(int32_t seq_id) const {
    context_.check_seq(seq_id);
    const Sequence & s = sequences_[size_t(seq_id)];
    return int32_t(std::max<size_t>(n_wanted(s) - std::min(s.n_agreeing, n_wanted(s)), 1));
}

int32_t Drafter::wanted(const Sequence & sequence, size_t index) const {
    return index < sequence.text.size() ? sequence.text[index]
                                        : sequence.drafted[index - sequence.text.size()];
}

// Lets a sequence begin with what another one has computed, if that is much more than its own.
void Drafter::share_prefix(int32_t seq_id) {
    Sequence & s = sequences_[size_t(seq_id)];
    size_t best = s.n_agreeing + WORTH_SHARING;
    int32_t source = -1;
    for (size_t other = 0; other < sequences_.size(); other++) {
        if (int32_t(other) == seq_id) {
            continue;
        }
        const size_t n = std::min(n_common(sequences_[other].computed, s.text), s.text.size());
        if (n > best && context_.holds_window_leased(int32_t(other), int32_t(n))) {
            best = n;
            source = int32_t(other);
        }
    }
    if (source < 0) {
        return;
    }
    drop(seq_id);
    context_.seq_cp_leased(source, seq_id, 0, int32_t(best));
    s.computed.assign(s.text.begin(), s.text.begin() + int64_t(best));
    s.n_agreeing = best;
}

void Drafter::drop(int32_t seq_id) {
    context_.seq_rm_leased(seq_id, -1, -1);
    sequences_[size_t(seq_id)].computed.clear();
    sequences_[size_t(seq_id)].n_agreeing = 0;
}

// Takes out of memory what is not the text, and at least the last token, whose logits are wanted.
void Drafter::settle(int32_t seq_id) {
    Sequence & s = sequences_[size_t(seq_id)];
    const size_t keep = std::min(s.n_agreeing, n_wanted(s) - 1);
    if (keep == s.computed.size()) {
        s.n_agreeing = keep;
        return;
    }
    if (keep == 0 || !context_.holds_window_leased(seq_id, int32_t(keep)) ||
        !context_.seq_rm_leased(seq_id, int32_t(keep), -1)) {
        drop(seq_id);
        return;
    }
    s.computed.resize(keep);
    s.n_agreeing = keep;
}

// Empties the sequences that nobody has open; false if there is nothing to empty.
bool Drafter::make_room() {
    bool found = false;
    for (size_t i = 0; i < sequences_.size(); i++) {
        if (!sequences_[i].is_open && !sequences_[i].computed.empty()) {
            drop(int32_t(i));
            found = true;
        }
    }
    return found;
}

// False if there is no room, not even without the closed sequences.
bool Drafter::decode(const std::vector<int32_t> & tokens, const std::vector<int32_t> & positions,
                     const std::vector<int32_t> & seq_ids, const std::vector<uint8_t> & outputs) {
    const Batch batch = {tokens.size(), tokens.data(), positions.data(), seq_ids.data(), outputs.data()};
    for (int attempt = 0;; attempt++) {
        try {
            context_.decode_leased(batch);
            return true;
        } catch (const Error & error) {
            if (error.kind() != std::string("NoKVSlotError")) {
                for (const int32_t seq_id : seq_ids) {
                    drop(seq_id);
                }
                throw;
            }
            if (attempt > 0 || !make_room()) {
                return false;
            }
        }
    }
}

std::vector<DraftToken> Drafter::extend(const std::vector<int32_t> & seq_ids,
                                        const std::vector<Sampler *> & samplers, int32_t max_rows) {
    Context::Lease lease(context_);
    std::vector<DraftToken> result(seq_ids.size());
    std::vector<size_t> order;
    for (size_t i = 0; i < seq_ids.size(); i++) {
        context_.check_seq(seq_ids[i]);
        Sequence & s = sequences_[size_t(seq_ids[i])];
        const bool is_stuck = !s.drafts.empty() && s.drafts.back().token < 0;
        if (s.is_open && !s.text.empty() && !is_stuck) {
            settle(seq_ids[i]);
            order.push_back(i);
        }
    }
    // Those that are nearly there first: their drafts are for this step.
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return lag(seq_ids[a]) < lag(seq_ids[b]); });
    const auto limit = size_t(std::clamp<int64_t>(max_rows, 1, int64_t(context_.n_batch())));
    std::vector<int32_t> tokens, positions, batch_seq_ids;
    std::vector<uint8_t> outputs;
    std::vector<std::pair<size_t, int32_t>> rows; // index in the result, batch index of its logits
    std::vector<size_t> taken(seq_ids.size());
    for (const size_t i : order) {
        const Sequence & s = sequences_[size_t(seq_ids[i])];
        const size_t start = s.computed.size(), missing = n_wanted(s) - start;
        const size_t n = std::min(missing, limit - tokens.size());
        if (start + n > size_t(context_.n_ctx_seq())) {
            continue; // longer in the draft model's tokens than it can hold
        }
        for (size_t j = start; j < start + n; j++) {
            tokens.push_back(wanted(s, j));
            positions.push_back(int32_t(j));
            batch_seq_ids.push_back(seq_ids[i]);
            outputs.push_back(0);
        }
        taken[i] = n;
        if (n == missing && rows.size() < size_t(context_.n_outputs_max())) {
            outputs.back() = 1;
            rows.emplace_back(i, int32_t(tokens.size()) - 1);
        }
        if (tokens.size() == limit) {
            break;
        }
    }
    if (tokens.empty() || !decode(tokens, positions, batch_seq_ids, outputs)) {
        return result;
    }
    n_computed_ += tokens.size();
    for (const size_t i : order) {
        Sequence & s = sequences_[size_t(seq_ids[i])];
        for (size_t j = 0; j < taken[i]; j++) {
            s.computed.push_back(wanted(s, s.computed.size()));
        }
        s.n_agreeing = s.computed.size();
    }
    for (const auto & [i, index] : rows) {
        result[i] = pick(sequences_[size_t(seq_ids[i])], *samplers[i], context_.logits_leased(index));
    }
    return result;
}

DraftToken Drafter::pick(Sequence & sequence, const Sampler & target, float * logits) {
    if (!sequence.sampler) {
        sequence.sampler = target.clone_for_draft();
        if (sampled_) { // other random numbers than those that will judge the draft
            sequence.sampler->reseed(target.params().seed ^ (OTHER_STREAM * (sequence.text.size() + 1)));
        }
    }
    Sampler & sampler = *sequence.sampler;
    float * row = logits;
    if (!map_.is_identical() || map_.n_draft() != map_.n_target()) {
        row_.assign(size_t(map_.n_target()), -std::numeric_limits<float>::infinity());
        for (int32_t i = 0; i < map_.n_draft(); i++) {
            if (map_.to_target(i) >= 0) {
                row_[size_t(map_.to_target(i))] = logits[i];
            }
        }
        row = row_.data();
    }
    DraftToken draft;
    draft.confidence = top_probability(row, map_.n_target());
    if (sampled_ && target.has_distribution()) {
        draft.q = sampler.distribution(row);
        draft.token = draw_token(draft.q, sampler.uniform());
    } else if (draft.confidence > 0) {
        draft.token = sampler.sample(row);
    }
    sequence.drafts.push_back(draft);
    if (draft.token >= 0) {
        sampler.accept(draft.token);
        map_.append_draft(draft.token, sequence.drafted);
    }
    return draft;
}

} // namespace slipstream
