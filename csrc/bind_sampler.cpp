#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <random>

#include "bind.h"
#include "context.h"
#include "sampler.h"

namespace slipstream {

using namespace nb::literals;

void bind_sampler(nb::module_ & m) {
    nb::class_<SamplerParams>(
        m, "SamplerParams",
        "How tokens are chosen; fields and defaults are those of slipstream.SamplingParams.")
        .def(nb::init<>())
        .def_rw("temperature", &SamplerParams::temperature)
        .def_rw("top_k", &SamplerParams::top_k)
        .def_rw("top_p", &SamplerParams::top_p)
        .def_rw("min_p", &SamplerParams::min_p)
        .def_rw("typical_p", &SamplerParams::typical_p)
        .def_rw("top_n_sigma", &SamplerParams::top_n_sigma)
        .def_rw("xtc_probability", &SamplerParams::xtc_probability)
        .def_rw("xtc_threshold", &SamplerParams::xtc_threshold)
        .def_rw("dry_multiplier", &SamplerParams::dry_multiplier)
        .def_rw("dry_base", &SamplerParams::dry_base)
        .def_rw("dry_allowed_length", &SamplerParams::dry_allowed_length)
        .def_rw("dry_penalty_last_n", &SamplerParams::dry_penalty_last_n)
        .def_rw("dry_sequence_breakers", &SamplerParams::dry_sequence_breakers)
        .def_rw("repeat_penalty", &SamplerParams::repeat_penalty)
        .def_rw("presence_penalty", &SamplerParams::presence_penalty)
        .def_rw("frequency_penalty", &SamplerParams::frequency_penalty)
        .def_rw("repeat_last_n", &SamplerParams::repeat_last_n)
        .def_rw("mirostat", &SamplerParams::mirostat)
        .def_rw("mirostat_tau", &SamplerParams::mirostat_tau)
        .def_rw("mirostat_eta", &SamplerParams::mirostat_eta)
        .def_rw("logit_bias", &SamplerParams::logit_bias)
        .def_rw("seed", &SamplerParams::seed)
        .def_prop_rw(
            "grammar", [](const SamplerParams & p) { return p.grammar.text; },
            [](SamplerParams & p, std::string text) { p.grammar.text = std::move(text); })
        .def(
            "set_triggers",
            [](SamplerParams & p, std::vector<std::string> triggers, std::string thinking_start,
               std::vector<std::string> thinking_ends, bool is_thinking) {
                p.grammar.triggers = std::move(triggers);
                p.grammar.thinking_start = std::move(thinking_start);
                p.grammar.thinking_ends = std::move(thinking_ends);
                p.grammar.is_thinking = is_thinking;
            },
            "triggers"_a, "thinking_start"_a = "", "thinking_ends"_a = std::vector<std::string>(),
            "is_thinking"_a = false,
            "Let the grammar hold from the first group of a match of one of these regular expressions on, and not before.\n"
            "Nothing between thinking_start and one of thinking_ends is a match; with is_thinking, the output begins there.")
        .def_prop_rw(
            "grammar_prefix", [](const SamplerParams & p) { return p.grammar.prefix; },
            [](SamplerParams & p, std::vector<int32_t> tokens) { p.grammar.prefix = std::move(tokens); },
            "Tokens a grammar without triggers takes for said.");

    nb::class_<Sampler>(m, "Sampler", "Chooses tokens from logits. One thread at a time.")
        .def(
            "__init__",
            [](Sampler * self, const Model & model, const SamplerParams & params) {
                new (self) Sampler(model.handle(), params);
            },
            "model"_a, "params"_a,
            "Make a sampler for a model's vocabulary.\n\n"
            "Raises:\n"
            "    GrammarError: the grammar does not parse.\n"
            "    InvalidRequestError: a bias for a token that is not in the vocabulary.")
        .def(
            "sample",
            [](Sampler & self, Context & context, int32_t i) {
                nb::gil_scoped_release release;
                Context::Lease lease(context);
                Turn turn(self.busy(), "sampler");
                if (context.n_vocab() != self.n_vocab()) {
                    throw Error("InvalidRequestError",
                                format("the context's model has %d tokens, the sampler's %d",
                                       context.n_vocab(), self.n_vocab()),
                                "context");
                }
                return self.sample(context.logits_leased(i));
            },
            "context"_a, "i"_a,
            "Pick a token from the logits of batch index `i` of the context's last decode. Does not accept it.")
        .def(
            "sample_logits",
            [](Sampler & self, nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu> logits) {
                if (logits.shape(0) != size_t(self.n_vocab())) {
                    throw Error("InvalidRequestError",
                                format("logits have %zu entries; the vocabulary has %d", logits.shape(0),
                                       self.n_vocab()),
                                "logits");
                }
                std::vector<float> copy(logits.data(), logits.data() + logits.shape(0));
                nb::gil_scoped_release release;
                Turn turn(self.busy(), "sampler");
                return self.sample(copy.data());
            },
            "logits"_a, "Pick a token from float32 logits of shape (n_vocab,). Does not accept it.")
        .def(
            "accept",
            [](Sampler & self, int32_t token) {
                Turn turn(self.busy(), "sampler");
                self.accept(token);
            },
            "token"_a,
            "Tell penalties, DRY and the grammar that this token came next.\n\n"
            "Raises:\n"
            "    GrammarError: the grammar does not allow it here.\n"
            "    InvalidRequestError: it is not in the vocabulary. Nothing has changed in either case.")
        .def(
            "accept_prompt",
            [](Sampler & self, const std::vector<int32_t> & tokens) {
                Turn turn(self.busy(), "sampler");
                self.accept_prompt(tokens);
            },
            "tokens"_a, "The same for a prompt, which the grammar does not see.")
        .def(
            "reset",
            [](Sampler & self) {
                Turn turn(self.busy(), "sampler");
                self.reset();
            },
            "Back to the state after construction, the seed included.")
        .def(
            "clone",
            [](Sampler & self) {
                Turn turn(self.busy(), "sampler");
                return self.clone();
            },
            "A copy with all its state.")
        // A copy: what this holds has been checked.
        .def_prop_ro("params", [](const Sampler & self) { return SamplerParams(self.params()); });
}

} // namespace slipstream
