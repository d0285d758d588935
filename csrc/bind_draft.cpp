#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "drafter.h"
#include "ngram_index.h"
#include "rejection.h"
#include "vocab_map.h"

namespace slipstream {

using namespace nb::literals;

namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

std::vector<Candidate> row_of(const Matrix & matrix, size_t row) {
    std::vector<Candidate> candidates;
    const float * values = matrix.data() + row * matrix.shape(1);
    for (size_t i = 0; i < matrix.shape(1); i++) {
        if (values[i] > 0.0f) {
            candidates.push_back({int32_t(i), values[i]});
        }
    }
    return candidates;
}

std::vector<int32_t> verify_drafts(const Matrix & target, const Matrix & draft,
                                   const std::vector<int32_t> & tokens, uint64_t seed) {
    const size_t n = tokens.size(), n_vocab = target.shape(1);
    if (target.shape(0) != n + 1 || draft.shape(0) != n || draft.shape(1) != n_vocab) {
        throw Error(
            "InvalidRequestError",
            format(
                "%zu draft tokens need target probabilities of shape (%zu, %zu) and draft ones of (%zu, %zu), "
                "not (%zu, %zu) and (%zu, %zu)",
                n, n + 1, n_vocab, n, n_vocab, target.shape(0), n_vocab, draft.shape(0), draft.shape(1)),
            "draft_probs");
    }
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> uniform;
    std::vector<float> scratch(n_vocab);
    std::vector<int32_t> output;
    for (size_t i = 0; i <= n; i++) {
        const std::vector<Candidate> p = row_of(target, i);
        if (p.empty()) {
            throw Error("InvalidRequestError", format("row %zu of target_probs has no probability", i),
                        "target_probs");
        }
        if (i < n && (tokens[i] < 0 || size_t(tokens[i]) >= n_vocab)) {
            throw Error("InvalidRequestError",
                        format("draft token %d is not in a vocabulary of %zu", tokens[i], n_vocab),
                        "draft_tokens");
        }
        const double accept = uniform(random), pick = uniform(random);
        Verdict verdict = {false, -1};
        if (i < n) {
            verdict = rejection_sample(p, row_of(draft, i), tokens[i], accept, pick, scratch);
        } else {
            verdict.token = draw_token(p, pick);
        }
        output.push_back(verdict.token);
        if (!verdict.accepted) {
            break;
        }
    }
    return output;
}

} // namespace

void bind_draft(nb::module_ & m) {
    nb::class_<VocabMap>(m, "VocabMap", "How the tokens of a draft model's vocabulary read in a target's.")
        .def(nb::init<const Model &, const Model &>(), nb::call_guard<nb::gil_scoped_release>(), "target"_a,
             "draft"_a,
             "Compare two vocabularies: by id, then by spelling, then by role (BOS, EOS, end of turn).")
        .def_prop_ro("is_identical", &VocabMap::is_identical, "Every id means the same, as far as both go.")
        .def_prop_ro("n_target", &VocabMap::n_target, "Tokens of the target.")
        .def_prop_ro("n_draft", &VocabMap::n_draft, "Tokens of the draft model.")
        .def_prop_ro("n_shared", &VocabMap::n_shared, "Draft tokens that have an equal in the target.")
        .def_prop_ro("n_different", &VocabMap::n_different, "Ids in both that are spelled differently.")
        .def_prop_ro(
            "leading_token", &VocabMap::leading_token,
            "What the draft model wants before a text that has no such token itself; -1 for nothing.")
        .def_prop_ro(
            "differences",
            [](const VocabMap & self) {
                nb::list differences;
                for (const VocabDifference & d : self.differences()) {
                    differences.append(nb::make_tuple(d.token, nb::bytes(d.target.data(), d.target.size()),
                                                      nb::bytes(d.draft.data(), d.draft.size())));
                }
                return differences;
            },
            nb::sig("def differences(self) -> list[tuple[int, bytes, bytes]]"),
            "The first of those: (id, spelling in the target, spelling in the draft model).")
        .def(
            "to_target",
            [](const VocabMap & self, int32_t token) {
                if (token < 0 || token >= self.n_draft()) {
                    throw Error("InvalidRequestError",
                                format("token %d is not in the draft model's vocabulary: 0 to %d", token,
                                       self.n_draft() - 1),
                                "token");
                }
                return self.to_target(token);
            },
            "token"_a, "The target's equal of a draft token, -1 for none.")
        .def(
            "to_draft",
            [](VocabMap & self, const std::vector<int32_t> & tokens) {
                std::vector<int32_t> out;
                for (const int32_t token : tokens) {
                    if (token < 0 || token >= self.n_target()) {
                        throw Error("InvalidRequestError",
                                    format("token %d is not in the target's vocabulary: 0 to %d", token,
                                           self.n_target() - 1),
                                    "tokens");
                    }
                    self.append_draft(token, out);
                }
                return out;
            },
            "tokens"_a, "The draft tokens that spell the target's; one without an equal is tokenized anew.");

    nb::class_<Drafter>(m, "Drafter", "A draft model behind a Runner. Calls go through the Runner.")
        .def(
            nb::init<Context &, VocabMap &, bool>(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(),
            "context"_a, "vocab_map"_a, "sampled"_a = false,
            "Draft with a context of the draft model, which has the sequence ids of the target's.\n\n"
            "Args:\n"
            "    sampled: draw drafts at random and let the Runner judge them by rejection sampling; otherwise they are\n"
            "        what the target's sampler would pick from the draft model's logits.")
        .def_prop_ro("n_computed", &Drafter::n_computed, "Tokens computed so far.")
        .def("lag", &Drafter::lag, "seq_id"_a, "Tokens a sequence has to compute before its next draft.");

    nb::class_<NgramIndex>(m, "NgramIndex",
                           "What followed the last few tokens of a text when they occurred before.")
        .def(nb::init<>())
        .def(
            "append", [](NgramIndex & self, const std::vector<int32_t> & tokens) { self.append(tokens); },
            "tokens"_a, "Go on with the text.")
        .def(
            "propose",
            [](const NgramIndex & self, int32_t max_tokens) {
                if (max_tokens < 0 || max_tokens > 4096) {
                    throw Error("InvalidRequestError",
                                format("max_tokens is %d; it must be 0 to 4096", max_tokens), "max_tokens");
                }
                std::vector<int32_t> draft;
                const int32_t match = self.propose(self, {}, max_tokens, draft);
                return std::make_pair(match, std::move(draft));
            },
            "max_tokens"_a,
            "What followed the most recent earlier occurrence of the longest suffix of the text.\n\n"
            "Returns:\n    The length of the match, 0 for none, and up to `max_tokens` tokens.")
        .def("__len__", &NgramIndex::size);

    m.def(
        "verify_drafts", &verify_drafts, "target_probs"_a, "draft_probs"_a, "draft_tokens"_a, "seed"_a,
        "Speculative sampling (arXiv 2211.17192): judge drafted tokens so that the output is distributed as the target's.\n\n"
        "Args:\n"
        "    target_probs: float32, shape (n + 1, n_vocab): the target's distribution at each draft and behind the last.\n"
        "    draft_probs: float32, shape (n, n_vocab): what each draft was drawn from.\n"
        "    draft_tokens: the n drafts.\n"
        "    seed: of the random numbers.\n\n"
        "Returns:\n"
        "    The tokens that come out: the accepted drafts and one more.\n\n"
        "Raises:\n"
        "    InvalidRequestError: shapes or token ids that do not fit, or a row without probability.");
}

} // namespace slipstream
