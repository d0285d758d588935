#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "errors.h"

namespace slipstream {

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr float NEG_INF = -INF;

bool has_bit(const uint32_t * mask, int32_t token) {
    return (mask[token / 32] >> (token % 32) & 1U) != 0;
}

} // namespace

Sampler::Sampler(std::shared_ptr<llama_model> model, const SamplerParams & params)
    : model_(std::move(model)),
      vocab_(llama_model_get_vocab(model_.get())),
      n_vocab_(llama_vocab_n_tokens(vocab_)),
      params_(params),
      random_(params.seed) {
    check_params();
    // The model's own list of tokens it must never produce.
    int32_t n_suppressed = 0;
    const llama_token * suppressed = llama_vocab_get_suppress_tokens(vocab_, &n_suppressed);
    for (int32_t i = 0; i < n_suppressed; i++) {
        if (suppressed[i] >= 0 && suppressed[i] < n_vocab_) {
            params_.logit_bias.emplace_back(suppressed[i], NEG_INF);
        }
    }
    if (!params_.grammar.text.empty()) {
        grammar_ = std::make_unique<Grammar>(vocab_, params_.grammar);
    }
    const bool greedy = params_.temperature <= 0.0f;
    const bool own = params_.dry_multiplier <= 0.0f &&
                     (greedy || (params_.mirostat == 0 && params_.typical_p >= 1.0f &&
                                 params_.xtc_probability <= 0.0f && params_.top_n_sigma <= 0.0f));
    if (!own) {
        build_chain();
    }
}

Sampler::Sampler(const Sampler & other, bool for_draft)
    : model_(other.model_),
      vocab_(other.vocab_),
      n_vocab_(other.n_vocab_),
      params_(other.params_),
      random_(other.random_),
      recent_(other.recent_),
      recent_counts_(other.recent_counts_) {
    if (for_draft) {
        return;
    }
    if (other.chain_) {
        chain_.reset(llama_sampler_clone(other.chain_.get()));
    }
    if (other.grammar_) {
        grammar_ = std::make_unique<Grammar>(*other.grammar_);
    }
}

std::unique_ptr<Sampler> Sampler::clone() const {
    return std::unique_ptr<Sampler>(new Sampler(*this, false));
}

std::unique_ptr<Sampler> Sampler::clone_for_draft() const {
    return std::unique_ptr<Sampler>(new Sampler(*this, true));
}

void Sampler::check_params() const {
    const SamplerParams & p = params_;
    const std::pair<const char *, float> numbers[] = {
        {"temperature", p.temperature},
        {"top_p", p.top_p},
        {"min_p", p.min_p},
        {"typical_p", p.typical_p},
        {"top_n_sigma", p.top_n_sigma},
        {"xtc_probability", p.xtc_probability},
        {"xtc_threshold", p.xtc_threshold},
        {"dry_multiplier", p.dry_multiplier},
        {"dry_base", p.dry_base},
        {"repeat_penalty", p.repeat_penalty},
        {"presence_penalty", p.presence_penalty},
        {"frequency_penalty", p.frequency_penalty},
        {"mirostat_tau", p.mirostat_tau},
        {"mirostat_eta", p.mirostat_eta},
    };
    for (const auto & [name, value] : numbers) {
        if (!std::isfinite(value)) {
            throw Error("InvalidRequestError",
                        format("%s is %f; it must be a finite number", name, double(value)), name);
        }
    }
    constexpr int32_t max_last_n = 1 << 20; // DRY reserves as many
    if (p.dry_penalty_last_n > max_last_n) {
        throw Error(
            "InvalidRequestError",
            format("dry_penalty_last_n is %d; it must be at most %d", p.dry_penalty_last_n, max_last_n),
            "dry_penalty_last_n");
    }
    for (const auto & [token, bias] : p.logit_bias) {
        check_token(token, "logit_bias");
        if (std::isnan(bias)) {
            throw Error("InvalidRequestError", format("logit_bias of token %d is no number", token),
                        "logit_bias");
        }
    }
}

void Sampler::check_token(int32_t token, const char * field) const {
    if (token < 0 || token >= n_vocab_) {
        throw Error("InvalidRequestError",
                    format("%s: token id %d is not in the vocabulary: 0 to %d", field, token, n_vocab_ - 1),
                    field);
    }
}

// llama.cpp's default order (common_params_sampling::samplers): DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC,
// temperature. Bias and penalties come before, by adjust().
void Sampler::build_chain() {
    chain_.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    const auto add = [&](llama_sampler * sampler) { llama_sampler_chain_add(chain_.get(), sampler); };
    const auto seed = uint32_t(params_.seed ^ (params_.seed >> 32));
    const SamplerParams & p = params_;
    if (p.dry_multiplier > 0.0f) {
        std::vector<const char *> breakers;
        for (const std::string & breaker : p.dry_sequence_breakers) {
            breakers.push_back(breaker.c_str());
        }
        const int32_t last_n =
            p.dry_penalty_last_n < 0 ? llama_model_n_ctx_train(model_.get()) : p.dry_penalty_last_n;
        add(llama_sampler_init_dry(vocab_, p.dry_multiplier, p.dry_base, p.dry_allowed_length, last_n,
                                   breakers.data(), breakers.size()));
    }
    if (p.temperature <= 0.0f) {
        add(llama_sampler_init_greedy());
    } else if (p.mirostat == 1) {
        add(llama_sampler_init_temp(p.temperature));
        add(llama_sampler_init_mirostat(n_vocab_, seed, p.mirostat_tau, p.mirostat_eta,
                                        100)); // m = 100, as in the paper
    } else if (p.mirostat == 2) {
        add(llama_sampler_init_temp(p.temperature));
        add(llama_sampler_init_mirostat_v2(seed, p.mirostat_tau, p.mirostat_eta));
    } else {
        add(llama_sampler_init_top_n_sigma(p.top_n_sigma));
        add(llama_sampler_init_top_k(p.top_k));
        add(llama_sampler_init_typical(p.typical_p, 1));
        add(llama_sampler_init_top_p(p.top_p, 1));
        add(llama_sampler_init_min_p(p.min_p, 1));
        add(llama_sampler_init_xtc(p.xtc_probability, p.xtc_threshold, 1, seed));
        add(llama_sampler_init_temp(p.temperature));
        add(llama_sampler_init_dist(seed));
    }
}

int32_t Sampler::sample(float * row, const uint32_t * mask) {
    adjust(row);
    int32_t token = -1;
    try {
        const auto pick_of = [&](const float * logits) {
            return guarded("ComputeError", "llama.cpp's samplers failed", [&] { return pick(logits); });
        };
        const float * logits = row;
        const bool greedy = params_.temperature <= 0.0f && !chain_;
        if (greedy) {
            token = pick_of(logits);
        }
        // The best token of all is the best of those possible, too, if it is one of them.
        if (mask != nullptr && (token < 0 || !has_bit(mask, token))) {
            logits = masked(row, mask);
            token = -1;
        }
        token = token < 0 ? pick_of(logits) : token;
        // Most picks are legal: test the one token first and mask the vocabulary only when it is not.
        if (grammar_ && token >= 0 && !grammar_->allows(token)) {
            logits = masked(row, mask);
            data_.resize(size_t(n_vocab_));
            for (int32_t i = 0; i < n_vocab_; i++) {
                data_[size_t(i)] = {i, logits[i], 0.0f};
            }
            llama_token_data_array array = {data_.data(), data_.size(), -1, false};
            grammar_->apply(array);
            masked_.assign(size_t(n_vocab_), NEG_INF);
            for (size_t i = 0; i < array.size; i++) {
                masked_[size_t(array.data[i].id)] = array.data[i].logit;
            }
            token = pick_of(masked_.data());
        }
    } catch (...) {
        restore(row);
        throw;
    }
    restore(row);
    if (token < 0) {
        throw Error("ComputeError",
                    "no token can be sampled: every logit is -inf or NaN, or the grammar allows none");
    }
    return token;
}

// The logits, with -inf where the mask has no bit.
const float * Sampler::masked(const float * logits, const uint32_t * mask) {
    if (mask == nullptr) {
        return logits;
    }
    constexpr int32_t BITS = 32;
    masked_.resize(size_t(n_vocab_));
    for (int32_t start = 0; start < n_vocab_; start += BITS) {
        const uint32_t bits = mask[start / BITS];
        const int32_t n = std::min(BITS, n_vocab_ - start);
        float * to = masked_.data() + start;
        if (bits == 0) {
            std::fill_n(to, n, NEG_INF);
            continue;
        }
        for (int32_t i = 0; i < n; i++) {
            to[i] = (bits >> i & 1U) != 0 ? logits[start + i] : NEG_INF;
        }
    }
    return masked_.data();
}

int32_t Sampler::pick(const float * logits) {
    return chain_ ? sample_chain(logits) : sample_own(logits);
}

int32_t Sampler::sample_chain(const float * logits) {
    // Infinities and NaN would make NaN of llama.cpp's probabilities, which it sorts by.
    data_.clear();
    for (int32_t i = 0; i < n_vocab_; i++) {
        if (logits[i] == INF) {
            return i;
        }
        if (logits[i] > NEG_INF) {
            data_.push_back({i, logits[i], 0.0f});
        }
    }
    if (data_.empty()) {
        return -1;
    }
    llama_token_data_array array = {data_.data(), data_.size(), -1, false};
    llama_sampler_apply(chain_.get(), &array);
    return array.selected < 0 || size_t(array.selected) >= array.size ? -1 : array.data[array.selected].id;
}

int32_t Sampler::sample_own(const float * logits) {
    if (params_.temperature <= 0.0f) {
        return argmax(logits, n_vocab_);
    }
    if (!filter(logits)) {
        return -1;
    }
    float highest = NEG_INF;
    for (const Candidate & c : candidates_) {
        highest = std::max(highest, c.logit);
    }
    if (highest == INF) { // of equals, the first
        return argmax(logits, n_vocab_);
    }
    weights_.resize(candidates_.size());
    for (size_t i = 0; i < candidates_.size(); i++) {
        weights_[i] = double(candidates_[i].logit - highest) / double(params_.temperature);
    }
    exp_below_zero(weights_.data(), weights_.size());
    double sum = 0;
    for (double & weight : weights_) {
        weight = sum += weight;
    }
    // One random number per token, whatever the filters: inverse of the cumulative distribution.
    const double draw = uniform() * sum;
    const auto found = std::upper_bound(weights_.begin(), weights_.end(), draw);
    const size_t index = std::min(size_t(found - weights_.begin()), candidates_.size() - 1);
    return candidates_[index].token;
}

bool Sampler::has_distribution() const {
    return !chain_ && !grammar_ && params_.temperature > 0.0f;
}

const std::vector<Candidate> & Sampler::distribution(float * row, const uint32_t * mask) {
    adjust(row);
    const float * logits = masked(row, mask);
    if (!filter(logits)) {
        candidates_.clear();
    }
    float highest = NEG_INF;
    for (const Candidate & c : candidates_) {
        highest = std::max(highest, c.logit);
    }
    if (highest == INF) {
        candidates_.assign(1, {argmax(logits, n_vocab_), INF});
    }
    restore(row);
    double sum = 0;
    for (Candidate & c : candidates_) {
        c.logit = highest == INF ? 1.0f : std::exp((c.logit - highest) / params_.temperature);
        sum += double(c.logit);
    }
    for (Candidate & c : candidates_) {
        c.logit = float(double(c.logit) / sum);
    }
    return candidates_;
}

// Leaves in candidates_ what top-k, top-p and min-p leave; false if that is nothing. They see the distribution before
// temperature, and top-p sees what top-k has left, as in llama.cpp's default order.
bool Sampler::filter(const float * logits) {
    const bool bounded = params_.top_k > 0 && params_.top_k < n_vocab_;
    const auto lowest = [&](float highest) {
        return params_.min_p > 0.0f ? highest + std::min(std::log(params_.min_p), 0.0f) : NEG_INF;
    };
    if (!bounded && params_.top_p >= 1.0f) {
        const int32_t best = argmax(logits, n_vocab_);
        if (best >= 0) {
            select_at_least(logits, n_vocab_, lowest(logits[best]), candidates_);
        }
        return best >= 0;
    }
    constexpr int32_t FIRST_LOOK = 256; // mostly enough
    select_top_k(logits, n_vocab_, bounded ? params_.top_k : FIRST_LOOK, candidates_);
    if (candidates_.empty()) {
        return false;
    }
    const float highest = candidates_[0].logit;
    if (params_.top_p < 1.0f && highest < INF) {
        double total = bounded ? 0.0 : sum_exp(logits, n_vocab_, highest);
        for (size_t i = 0; bounded && i < candidates_.size(); i++) {
            total += exp_below_zero(double(candidates_[i].logit - highest));
        }
        const double mass = double(params_.top_p) * total;
        const bool is_all = bounded || candidates_.size() < FIRST_LOOK;
        if (!keep_mass(mass) && !is_all && candidates_.back().logit >= lowest(highest)) {
            select_mass(logits, n_vocab_, mass, lowest(highest), candidates_);
            keep_mass(mass);
        }
    }
    while (candidates_.back().logit < lowest(highest)) {
        candidates_.pop_back();
    }
    return true;
}

// Drops the candidates behind the one that reaches `mass`; false if none does.
bool Sampler::keep_mass(double mass) {
    double sum = 0;
    for (size_t i = 0; i < candidates_.size(); i++) {
        sum += exp_below_zero(double(candidates_[i].logit - candidates_[0].logit));
        if (sum >= mass) {
            candidates_.resize(i + 1);
            return true;
        }
    }
    return false;
}

double Sampler::uniform() {
    return double(random_() >> 11) * 0x1.0p-53; // 53 random bits: [0, 1)
}

// Bias first, then the three penalties (llama_sampler_penalties): only a handful of logits change.
void Sampler::adjust(float * logits) {
    undo_.clear();
    for (const auto & [token, bias] : params_.logit_bias) {
        undo_.push_back({token, logits[token]});
        logits[token] += bias;
    }
    for (const auto & [token, count] : recent_counts_) {
        undo_.push_back({token, logits[token]});
        float & logit = logits[token];
        logit = logit <= 0.0f ? logit * params_.repeat_penalty : logit / params_.repeat_penalty;
        logit -= float(count) * params_.frequency_penalty + params_.presence_penalty;
    }
}

void Sampler::restore(float * logits) {
    for (auto it = undo_.rbegin(); it != undo_.rend(); ++it) {
        logits[it->token] = it->logit;
    }
    undo_.clear();
}

void Sampler::remember(int32_t token) {
    const bool penalized = params_.repeat_penalty != 1.0f || params_.frequency_penalty != 0.0f ||
                           params_.presence_penalty != 0.0f;
    if (!penalized || params_.repeat_last_n == 0) {
        return;
    }
    recent_.push_back(token);
    recent_counts_[token]++;
    if (params_.repeat_last_n > 0 && recent_.size() > size_t(params_.repeat_last_n)) {
        const auto oldest = recent_counts_.find(recent_.front());
        if (--oldest->second == 0) {
            recent_counts_.erase(oldest);
        }
        recent_.pop_front();
    }
}

void Sampler::accept(int32_t token) {
    check_token(token, "token");
    if (grammar_) {
        grammar_->accept(token);
    }
    remember(token);
    if (chain_) {
        llama_sampler_accept(chain_.get(), token);
    }
}

void Sampler::accept_prompt(const std::vector<int32_t> & tokens) {
    for (const int32_t token : tokens) {
        check_token(token, "tokens");
    }
    for (const int32_t token : tokens) {
        remember(token);
        if (chain_) {
            llama_sampler_accept(chain_.get(), token);
        }
    }
}

void Sampler::reset() {
    random_.seed(params_.seed);
    recent_.clear();
    recent_counts_.clear();
    if (chain_) {
        llama_sampler_reset(chain_.get());
    }
    if (grammar_) {
        grammar_->reset();
    }
}

} // namespace slipstream
