#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "errors.h"

namespace slipstream {

namespace {

constexpr float NEG_INF = -std::numeric_limits<float>::infinity();

bool better(const Candidate & a, const Candidate & b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

} // namespace

Sampler::Sampler(std::shared_ptr<llama_model> model, const SamplerParams & params)
    : model_(std::move(model)),
      vocab_(llama_model_get_vocab(model_.get())),
      n_vocab_(llama_vocab_n_tokens(vocab_)),
      params_(params),
      random_(params.seed) {
    for (const auto & [token, bias] : params_.logit_bias) {
        if (token < 0 || token >= n_vocab_ || std::isnan(bias)) {
            throw Error("InvalidRequestError",
                        format("logit_bias for token %d (%f): the vocabulary has tokens 0 to %d", token,
                               double(bias), n_vocab_ - 1),
                        "logit_bias");
        }
    }
    // The model's own list of tokens it must never produce.
    int32_t n_suppressed = 0;
    const llama_token * suppressed = llama_vocab_get_suppress_tokens(vocab_, &n_suppressed);
    for (int32_t i = 0; i < n_suppressed; i++) {
        params_.logit_bias.emplace_back(suppressed[i], NEG_INF);
    }
    if (!params_.grammar.empty()) {
        grammar_.reset(llama_sampler_init_grammar(vocab_, params_.grammar.c_str(), "root"));
        if (!grammar_) {
            throw Error("GrammarError", "the grammar does not parse as GBNF with a rule named root",
                        "grammar");
        }
    }
    const bool greedy = params_.temperature <= 0.0f;
    const bool own = params_.dry_multiplier <= 0.0f &&
                     (greedy || (params_.mirostat == 0 && params_.typical_p >= 1.0f &&
                                 params_.xtc_probability <= 0.0f && params_.top_n_sigma <= 0.0f));
    if (!own) {
        build_chain();
    }
}

Sampler::Sampler(const Sampler & other)
    : model_(other.model_),
      vocab_(other.vocab_),
      n_vocab_(other.n_vocab_),
      params_(other.params_),
      random_(other.random_),
      recent_(other.recent_),
      recent_counts_(other.recent_counts_) {
    if (other.chain_) {
        chain_.reset(llama_sampler_clone(other.chain_.get()));
    }
    if (other.grammar_) {
        grammar_.reset(llama_sampler_clone(other.grammar_.get()));
    }
}

std::unique_ptr<Sampler> Sampler::clone() const {
    return std::unique_ptr<Sampler>(new Sampler(*this));
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

int32_t Sampler::sample(float * logits) {
    adjust(logits);
    int32_t token = -1;
    try {
        token = pick(logits);
        // Most picks are legal: test the one token first and mask the vocabulary only when it is not.
        if (grammar_ && token >= 0 && !grammar_allows(token)) {
            std::vector<llama_token_data> all(static_cast<size_t>(n_vocab_));
            for (int32_t i = 0; i < n_vocab_; i++) {
                all[size_t(i)] = {i, logits[i], 0.0f};
            }
            llama_token_data_array array = {all.data(), all.size(), -1, false};
            llama_sampler_apply(grammar_.get(), &array);
            std::vector<float> masked(size_t(n_vocab_), NEG_INF);
            for (size_t i = 0; i < array.size; i++) {
                masked[size_t(array.data[i].id)] = array.data[i].logit;
            }
            token = pick(masked.data());
        }
    } catch (...) {
        restore(logits);
        throw;
    }
    restore(logits);
    if (token < 0) {
        throw Error("ComputeError",
                    "no token can be sampled: every logit is -inf or NaN, or the grammar allows none");
    }
    return token;
}

int32_t Sampler::pick(const float * logits) {
    return chain_ ? sample_chain(logits) : sample_own(logits);
}

bool Sampler::grammar_allows(int32_t token) const {
    llama_token_data one = {token, 1.0f, 0.0f};
    llama_token_data_array array = {&one, 1, -1, false};
    llama_sampler_apply(grammar_.get(), &array);
    return array.size == 1 && one.logit > NEG_INF;
}

int32_t Sampler::sample_chain(const float * logits) {
    data_.resize(size_t(n_vocab_));
    bool any = false;
    for (int32_t i = 0; i < n_vocab_; i++) {
        const float logit = std::isnan(logits[i]) ? NEG_INF : logits[i];
        any = any || logit > NEG_INF;
        data_[size_t(i)] = {i, logit, 0.0f};
    }
    if (!any) {
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
    // Filters see the distribution before temperature, as in llama.cpp's default order.
    const bool bounded = params_.top_k > 0 && params_.top_k < n_vocab_;
    double total = 0;
    if (bounded) {
        select_top_k(logits, n_vocab_, params_.top_k, candidates_);
    } else {
        candidates_.clear();
        for (int32_t i = 0; i < n_vocab_; i++) {
            if (logits[i] > NEG_INF) {
                candidates_.push_back({i, logits[i]});
            }
        }
        std::sort(candidates_.begin(), candidates_.end(), better);
    }
    if (candidates_.empty()) {
        return -1;
    }
    const float highest = candidates_[0].logit;
    if (highest == std::numeric_limits<float>::infinity()) {
        return candidates_[0].token;
    }
    size_t keep = candidates_.size();
    if (params_.top_p < 1.0f) {
        for (const Candidate & c : candidates_) {
            total += std::exp(double(c.logit - highest));
        }
        double cumulative = 0;
        for (size_t i = 0; i < candidates_.size(); i++) {
            cumulative += std::exp(double(candidates_[i].logit - highest));
            if (cumulative >= double(params_.top_p) * total) {
                keep = i + 1;
                break;
            }
        }
    }
    if (params_.min_p > 0.0f) {
        const float threshold = highest + std::log(params_.min_p);
        while (keep > 1 && candidates_[keep - 1].logit < threshold) {
            keep--;
        }
    }
    weights_.resize(keep);
    double sum = 0;
    for (size_t i = 0; i < keep; i++) {
        sum += std::exp(double(candidates_[i].logit - highest) / double(params_.temperature));
        weights_[i] = sum;
    }
    // One random number per token, whatever the filters: inverse of the cumulative distribution.
    const double draw = uniform() * sum;
    const auto found = std::upper_bound(weights_.begin(), weights_.end(), draw);
    const size_t index = std::min(size_t(found - weights_.begin()), keep - 1);
    return candidates_[index].token;
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
    if (!penalized || params_.repeat_last_n == 0 || token < 0 || token >= n_vocab_) {
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
    remember(token);
    if (chain_) {
        llama_sampler_accept(chain_.get(), token);
    }
    if (grammar_) {
        try {
            llama_sampler_accept(grammar_.get(), token);
        } catch (const std::exception & e) {
            throw Error("GrammarError", std::string("the grammar refuses the token: ") + e.what(), "grammar");
        }
    }
}

void Sampler::accept_prompt(const std::vector<int32_t> & tokens) {
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
        llama_sampler_reset(grammar_.get());
    }
}

int32_t argmax(const float * values, int32_t n) {
    // Blocks whose maximum the compiler finds in vector registers; a second look only where the best is beaten.
    constexpr int32_t BLOCK = 256;
    float best = NEG_INF;
    int32_t index = -1;
    for (int32_t start = 0; start < n; start += BLOCK) {
        const int32_t end = std::min(start + BLOCK, n);
        float lanes[16];
        std::fill(lanes, lanes + 16, NEG_INF);
        int32_t i = start;
        for (; i + 16 <= end; i += 16) {
            for (int32_t j = 0; j < 16; j++) {
                lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
            }
        }
        float highest = NEG_INF;
        for (const float lane : lanes) {
            highest = lane > highest ? lane : highest;
        }
        for (; i < end; i++) {
            highest = values[i] > highest ? values[i] : highest;
        }
        if (highest > best) {
            best = highest;
            index = start;
            while (values[index] != best) {
                index++;
            }
        }
    }
    return index;
}

void select_top_k(const float * values, int32_t n, int32_t k, std::vector<Candidate> & out) {
    out.clear();
    if (k <= 0) {
        return;
    }
    const auto worse_first = [](const Candidate & a, const Candidate & b) { return better(a, b); };
    constexpr int32_t BLOCK = 64;
    for (int32_t start = 0; start < n; start += BLOCK) {
        const int32_t end = std::min(start + BLOCK, n);
        if (int32_t(out.size()) == k) {
            float highest = NEG_INF;
            for (int32_t i = start; i < end; i++) {
                highest = values[i] > highest ? values[i] : highest;
            }
            if (highest <= out.front().logit) {
                continue;
            }
        }
        for (int32_t i = start; i < end; i++) {
            if (!(values[i] > NEG_INF)) {
                continue;
            }
            if (int32_t(out.size()) < k) {
                out.push_back({i, values[i]});
                std::push_heap(out.begin(), out.end(), worse_first);
            } else if (values[i] > out.front().logit) {
                std::pop_heap(out.begin(), out.end(), worse_first);
                out.back() = {i, values[i]};
                std::push_heap(out.begin(), out.end(), worse_first);
            }
        }
    }
    std::sort(out.begin(), out.end(), better);
}

double log_sum_exp(const float * values, int32_t n) {
    const int32_t best = argmax(values, n);
    if (best < 0) {
        return -std::numeric_limits<double>::infinity();
    }
    const float highest = values[best];
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += std::exp(double(values[i] - highest));
    }
    return double(highest) + std::log(sum);
}

} // namespace slipstream
