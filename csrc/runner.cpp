#include "runner.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "rejection.h"

namespace slipstream {

namespace {

constexpr size_t MAX_HEARD = 1 << 20; // tokens; some 100 bytes of memory each

}

Runner::Runner(Context & context, bool ngram, bool shared, Drafter * drafter)
    : context_(context),
      ngram_(ngram),
      shared_(ngram && shared),
      drafter_(drafter),
      slots_(context.n_seq_max()) {}

void Runner::open_sequence(int32_t seq_id, const SamplerParams & params, int32_t n_logprobs, bool special,
                           const std::vector<int32_t> & prompt) {
    Context::Lease lease(context_);
    context_.check_seq(seq_id);
    auto sampler = std::make_unique<Sampler>(context_.model(), params);
    sampler->accept_prompt(prompt);
    Slot & slot = slots_[size_t(seq_id)];
    slot = {std::move(sampler), n_logprobs, special, prompt.size(), {}};
    if (ngram_) {
        slot.index.append(prompt);
    }
    if (drafter_ != nullptr) {
        drafter_->open(seq_id, prompt);
    }
}

void Runner::accept(int32_t seq_id, const std::vector<int32_t> & tokens) {
    Context::Lease lease(context_);
    context_.check_seq(seq_id);
    Slot & slot = slots_[size_t(seq_id)];
    if (!slot.sampler) {
        throw Error("InvalidBatchError", format("sequence %d has no sampler; open it first", seq_id));
    }
    for (const int32_t token : tokens) {
        accept(slot, seq_id, token);
    }
}

void Runner::accept(Slot & slot, int32_t seq_id, int32_t token) {
    slot.sampler->accept(token);
    if (ngram_) {
        slot.index.append(token);
    }
    if (drafter_ != nullptr) {
        drafter_->accept(seq_id, token);
    }
}

void Runner::close_sequence(int32_t seq_id) {
    Context::Lease lease(context_, true);
    context_.check_seq(seq_id);
    Slot & slot = slots_[size_t(seq_id)];
    if (shared_ && slot.sampler) {
        if (heard_.size() > MAX_HEARD / 2) {
            heard_before_ = std::exchange(heard_, {});
        }
        heard_.append(slot.index.tokens(), slot.n_prompt);
    }
    if (drafter_ != nullptr && slot.sampler) {
        drafter_->close(seq_id);
    }
    slot = {};
}

bool Runner::trim(int32_t seq_id, int32_t n_tokens) {
    Context::Lease lease(context_);
    return context_.seq_rm_leased(seq_id, n_tokens == 0 ? -1 : n_tokens, -1);
}

StepResult Runner::step(const Step & step) {
    Context::Lease lease(context_);
    const size_t n_seqs = step.seq_ids.size();
    if (step.starts.size() != n_seqs || step.counts.size() != n_seqs || step.sample.size() != n_seqs) {
        throw Error("InvalidBatchError", "seq_ids, starts, counts and sample must have the same length");
    }
    if (!step.drafts.empty() && step.drafts.size() != n_seqs) {
        throw Error("InvalidBatchError", "drafts must be empty or as long as seq_ids");
    }
    uint64_t n_tokens = 0;
    for (size_t s = 0; s < n_seqs; s++) {
        if (step.counts[s] < 1 || step.starts[s] < 0 || step.starts[s] > INT32_MAX - step.counts[s]) {
            throw Error("InvalidBatchError", format("sequence %d has %d tokens from position %d in this step",
                                                    step.seq_ids[s], step.counts[s], step.starts[s]));
        }
        n_tokens += uint64_t(step.counts[s]);
    }
    if (step.tokens.size() != n_tokens) {
        throw Error("InvalidBatchError", format("counts add up to %llu, but there are %zu tokens",
                                                (unsigned long long)n_tokens, step.tokens.size()));
    }
    check_masks(step);
    positions_.clear();
    seq_ids_.clear();
    outputs_.clear();
    rows_.clear();
    for (size_t s = 0; s < n_seqs; s++) {
        for (int32_t i = 0; i < step.counts[s]; i++) {
            positions_.push_back(step.starts[s] + i);
            seq_ids_.push_back(step.seq_ids[s]);
            outputs_.push_back(0);
        }
        if (step.sample[s] != 0) {
            context_.check_seq(step.seq_ids[s]);
            if (!slots_[size_t(step.seq_ids[s])].sampler) {
                throw Error("InvalidBatchError",
                            format("sequence %d has no sampler; open it first", step.seq_ids[s]));
            }
            const int32_t n_drafts = step.drafts.empty() ? 0 : step.drafts[s];
            if (n_drafts < 0 || n_drafts >= step.counts[s]) {
                throw Error(
                    "InvalidBatchError",
                    format("sequence %d has %d drafts among its %d tokens; at least one token must be none",
                           step.seq_ids[s], n_drafts, step.counts[s]));
            }
            std::fill(outputs_.end() - n_drafts - 1, outputs_.end(), uint8_t(1));
            rows_.emplace_back(int32_t(outputs_.size()) - 1 - n_drafts, s);
        } else if (!step.drafts.empty() && step.drafts[s] != 0) {
            throw Error("InvalidBatchError",
                        format("sequence %d has drafts and is not sampled", step.seq_ids[s]));
        }
    }
    try {
        context_.decode_leased(
            {step.tokens.size(), step.tokens.data(), positions_.data(), seq_ids_.data(), outputs_.data()});
    } catch (...) {
        for (const auto & [first, s] : rows_) { // whoever plans the step again drafts again
            if (drafter_ != nullptr) {
                drafter_->forget_drafts(step.seq_ids[s]);
            }
        }
        throw;
    }
    if (step.wait_masks) {
        step.wait_masks();
    }
    StepResult result;
    result.rows.reserve(rows_.size());
    for (const auto & [first, s] : rows_) {
        verify(step, first, s, result);
    }
    return result;
}

void Runner::check_masks(const Step & step) const {
    if (step.mask_rows.empty()) {
        return;
    }
    if (step.mask_rows.size() != step.seq_ids.size()) {
        throw Error("InvalidBatchError", "mask_rows must be empty or as long as seq_ids");
    }
    if (step.n_mask_words * 32 < size_t(context_.n_vocab())) {
        throw Error("InvalidBatchError", format("a mask of %zu words has no bit for each of %d tokens",
                                                step.n_mask_words, context_.n_vocab()));
    }
    for (size_t s = 0; s < step.mask_rows.size(); s++) {
        const int64_t n_needed = 1 + (step.drafts.empty() ? 0 : int64_t(step.drafts[s]));
        if (step.mask_rows[s] < -1 ||
            (step.mask_rows[s] >= 0 && int64_t(step.mask_rows[s]) + n_needed > int64_t(step.n_masks))) {
            throw Error("InvalidBatchError",
                        format("sequence %d needs %lld masks from row %d on, of %zu", step.seq_ids[s],
                               (long long)n_needed, step.mask_rows[s], step.n_masks));
        }
    }
}

// Samples the outputs of sequence `s` from batch index `first` on, as long as the draft behind each is what came out.
void Runner::verify(const Step & step, int32_t first, size_t s, StepResult & result) {
    const int32_t n_drafts = step.drafts.empty() ? 0 : step.drafts[s];
    std::vector<DraftToken> drawn;
    if (drafter_ != nullptr) {
        drawn = drafter_->take_drafts(step.seq_ids[s]);
    }
    int32_t n_sampled = 0;
    bool agrees = true, failed = false;
    while (agrees && n_sampled <= n_drafts) {
        const int32_t index = first + n_sampled;
        const DraftToken * draft = nullptr;
        if (n_sampled < n_drafts && size_t(n_sampled) < drawn.size() && !drawn[size_t(n_sampled)].q.empty() &&
            drawn[size_t(n_sampled)].token == step.tokens[size_t(index) + 1]) {
            draft = &drawn[size_t(n_sampled)];
        }
        const uint32_t * mask = nullptr;
        if (!step.mask_rows.empty() && step.mask_rows[s] >= 0) {
            mask = step.masks + size_t(step.mask_rows[s] + n_sampled) * step.n_mask_words;
        }
        try {
            result.rows.push_back(sample_row(step.seq_ids[s], context_.logits_leased(index), draft, mask));
        } catch (const Error & error) {
            result.errors.push_back({int32_t(result.counts.size()), error.kind(), error.what()});
            failed = true;
            break;
        }
        agrees = n_sampled < n_drafts && result.rows.back().token == step.tokens[size_t(index) + 1];
        n_sampled++;
    }
    result.counts.push_back(n_sampled);
    // The last token sampled is not computed yet, by the accounts of whoever planned this, even if its draft was.
    const int32_t n_kept = std::max(n_sampled, 1);
    if ((failed || n_sampled <= n_drafts) && n_kept <= n_drafts &&
        !context_.seq_rm_leased(step.seq_ids[s], positions_[size_t(first)] + n_kept, -1)) {
        throw Error("ComputeError", "this memory cannot take rejected drafts out again");
    }
}

std::vector<Proposal> Runner::propose(const std::vector<int32_t> & seq_ids, int32_t max_tokens,
                                      const std::vector<std::vector<int32_t>> & drafts) const {
    Context::Lease lease(context_);
    if (!drafts.empty() && drafts.size() != seq_ids.size()) {
        throw Error("InvalidBatchError", "drafts must be empty or as long as seq_ids");
    }
    std::vector<Proposal> proposals(seq_ids.size());
    const std::vector<int32_t> none;
    for (size_t i = 0; i < seq_ids.size(); i++) {
        context_.check_seq(seq_ids[i]);
        const NgramIndex & own = slots_[size_t(seq_ids[i])].index;
        const std::vector<int32_t> & behind = drafts.empty() ? none : drafts[i];
        Proposal & proposal = proposals[i];
        proposal.match = own.propose(own, behind, max_tokens, proposal.tokens);
        if (shared_) {
            for (const NgramIndex * heard : {&heard_, &heard_before_}) {
                std::vector<int32_t> tokens;
                const int32_t match = heard->propose(own, behind, max_tokens, tokens);
                if (match > proposal.match) {
                    proposal = {match, std::move(tokens)};
                }
            }
        }
    }
    return proposals;
}

std::vector<DraftToken> Runner::draft(const std::vector<int32_t> & seq_ids, int32_t max_rows) {
    Context::Lease lease(context_);
    if (drafter_ == nullptr) {
        throw Error("InvalidRequestError", "this runner has no draft model");
    }
    std::vector<Sampler *> samplers;
    for (const int32_t seq_id : seq_ids) {
        context_.check_seq(seq_id);
        samplers.push_back(slots_[size_t(seq_id)].sampler.get());
        if (samplers.back() == nullptr) {
            throw Error("InvalidBatchError", format("sequence %d has no sampler; open it first", seq_id));
        }
    }
    return drafter_->extend(seq_ids, samplers, max_rows);
}

// The token that comes next. With a draft that was drawn at random, one of the same distribution as without.
int32_t Runner::choose(Slot & slot, float * logits, const DraftToken * draft, const uint32_t * mask) {
    Sampler & sampler = *slot.sampler;
    if (draft == nullptr || !sampler.has_distribution()) {
        return sampler.sample(logits, mask);
    }
    const std::vector<Candidate> & p = sampler.distribution(logits, mask);
    if (p.empty()) {
        return sampler.sample(logits, mask); // which says why there is none
    }
    scratch_.resize(size_t(context_.n_vocab()));
    const double accept = sampler.uniform(), pick = sampler.uniform();
    return rejection_sample(p, draft->q, draft->token, accept, pick, scratch_).token;
}

RowResult Runner::sample_row(int32_t seq_id, float * logits, const DraftToken * draft,
                             const uint32_t * mask) {
    Slot & slot = slots_[size_t(seq_id)];
    RowResult row;
    const llama_vocab * vocab = context_.vocab();
    row.token = choose(slot, logits, draft, mask);
    accept(slot, seq_id, row.token);
    row.is_eog = llama_vocab_is_eog(vocab, row.token);
    append_piece(vocab, row.token, slot.special, row.piece);
    if (slot.n_logprobs >= 0) {
        const double normalizer = log_sum_exp(logits, context_.n_vocab());
        row.has_logprob = true;
        row.logprob = double(logits[row.token]) - normalizer;
        select_top_k(logits, context_.n_vocab(), slot.n_logprobs, candidates_);
        for (const Candidate & candidate : candidates_) {
            TopLogprob top = {candidate.token, {}, double(candidate.logit) - normalizer};
            append_piece(vocab, candidate.token, true, top.piece);
            row.top.push_back(std::move(top));
        }
    }
    return row;
}

} // namespace slipstream
