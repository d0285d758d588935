#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bind.h"
#include "runner.h"

namespace slipstream {

using namespace nb::literals;

namespace {

using Masks = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

nb::bytes to_bytes(const std::string & text) {
    return nb::bytes(text.data(), text.size());
}

// (token ids, pieces, is_eog, logprobs, counts, errors); the first four have one entry per row; a logprob is None or
// (token, piece, logprob, [(token, piece, logprob), ...]).
nb::tuple to_python(const StepResult & result) {
    nb::list tokens, pieces, is_eog, logprobs;
    for (const RowResult & row : result.rows) {
        tokens.append(row.token);
        pieces.append(to_bytes(row.piece));
        is_eog.append(row.is_eog);
        if (!row.has_logprob) {
            logprobs.append(nb::none());
            continue;
        }
        nb::list top;
        for (const TopLogprob & t : row.top) {
            top.append(nb::make_tuple(t.token, to_bytes(t.piece), t.logprob));
        }
        logprobs.append(nb::make_tuple(row.token, to_bytes(row.piece), row.logprob, top));
    }
    nb::list errors;
    for (const RowError & error : result.errors) {
        errors.append(nb::make_tuple(error.sequence, error.kind, error.message));
    }
    return nb::make_tuple(tokens, pieces, is_eog, logprobs, result.counts, errors);
}

} // namespace

void bind_runner(nb::module_ & m) {
    nb::class_<Runner>(m, "Runner",
                       "The engine's step on a context: decode, sample and detokenize in one call.")
        .def(
            nb::init<Context &, bool, bool, Drafter *>(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 5>(),
            "context"_a, "ngram"_a = false, "shared"_a = false, "drafter"_a = nb::none(),
            "`ngram` keeps an index of each sequence's tokens for propose(), `shared` one of what all sequences have said,\n"
            "too; `drafter` is for draft().")
        .def(
            "open_sequence", &Runner::open_sequence, nb::call_guard<nb::gil_scoped_release>(), "seq_id"_a,
            "params"_a, "n_logprobs"_a, "special"_a, "prompt"_a,
            "Give a sequence a fresh sampler that has seen `prompt`. `n_logprobs` -1 means none; `special` renders control tokens.")
        .def(
            "accept",
            [](Runner & self, int32_t seq_id, const std::vector<int32_t> & tokens) {
                self.accept(seq_id, tokens);
            },
            nb::call_guard<nb::gil_scoped_release>(), "seq_id"_a, "tokens"_a,
            "Tell its sampler that these tokens came next without being sampled.\n\n"
            "Raises:\n    GrammarError: its grammar does not allow one of them.")
        .def("close_sequence", &Runner::close_sequence, "seq_id"_a,
             "Drop its sampler; its tokens stay in memory.")
        .def(
            "trim", &Runner::trim, nb::call_guard<nb::gil_scoped_release>(), "seq_id"_a, "n_tokens"_a,
            "Keep the first `n_tokens` tokens of a sequence. False if this memory cannot; nothing has changed then.")
        .def(
            "step",
            [](Runner & self, std::vector<int32_t> seq_ids, std::vector<int32_t> starts,
               std::vector<int32_t> counts, std::vector<int32_t> tokens, std::vector<bool> sample,
               std::vector<int32_t> drafts, std::vector<int32_t> mask_rows, std::optional<Masks> masks,
               nb::object wait_masks) {
                Step step = {std::move(seq_ids),
                             std::move(starts),
                             std::move(counts),
                             std::move(tokens),
                             std::vector<uint8_t>(sample.begin(), sample.end()),
                             std::move(drafts),
                             std::move(mask_rows)};
                if (masks) {
                    step.masks = masks->data();
                    step.n_masks = masks->shape(0);
                    step.n_mask_words = masks->shape(1);
                }
                if (!wait_masks.is_none()) {
                    step.wait_masks = [&wait_masks] {
                        nb::gil_scoped_acquire acquire;
                        wait_masks();
                    };
                }
                StepResult result;
                {
                    nb::gil_scoped_release release;
                    result = self.step(step);
                }
                return to_python(result);
            },
            "seq_ids"_a, "starts"_a, "counts"_a, "tokens"_a, "sample"_a, "drafts"_a = std::vector<int32_t>(),
            "mask_rows"_a = std::vector<int32_t>(), "masks"_a = nb::none(), "wait_masks"_a = nb::none(),
            nb::sig(
                "def step(self, seq_ids: collections.abc.Sequence[int], starts: collections.abc.Sequence[int], "
                "counts: collections.abc.Sequence[int], tokens: collections.abc.Sequence[int], "
                "sample: collections.abc.Sequence[bool], drafts: collections.abc.Sequence[int] = (), "
                "mask_rows: collections.abc.Sequence[int] = (), "
                "masks: numpy.typing.NDArray[numpy.uint32] | None = None, "
                "wait_masks: collections.abc.Callable[[], None] | None = None) -> "
                "tuple[list[int], list[bytes], list[bool], "
                "list[tuple[int, bytes, float, list[tuple[int, bytes, float]]] | None], list[int], "
                "list[tuple[int, str, str]]]"),
            "Compute counts[i] tokens of each sequence from position starts[i]; sample after the last where sample[i].\n"
            "The last drafts[i] of them are guesses: sampling goes on behind each that is what was sampled in its place,\n"
            "and the others are taken out of memory again. Where mask_rows[i] is not -1, the sequence's tokens are sampled\n"
            "among those with a bit in the uint32 rows of `masks` from there on, one row for each; `wait_masks` is called,\n"
            "after the batch is computed, and returns when they are written.\n\n"
            "Returns:\n"
            "    Token ids, their bytes, whether each ends a generation, and log-probabilities, one entry per token;\n"
            "    then how many of them belong to each sampled sequence, and (sequence, error class, message) of those\n"
            "    whose own sampler failed, which the others are not concerned by.\n\n"
            "Raises:\n"
            "    InvalidBatchError, NoKVSlotError, DecodeAborted, ComputeError: as Context.decode.")
        .def(
            "propose",
            [](const Runner & self, const std::vector<int32_t> & seq_ids, int32_t max_tokens,
               const std::vector<std::vector<int32_t>> & drafts) {
                std::vector<std::pair<int32_t, std::vector<int32_t>>> proposals;
                for (Proposal & p : self.propose(seq_ids, max_tokens, drafts)) {
                    proposals.emplace_back(p.match, std::move(p.tokens));
                }
                return proposals;
            },
            "seq_ids"_a, "max_tokens"_a, "drafts"_a = std::vector<std::vector<int32_t>>(),
            nb::sig("def propose(self, seq_ids: collections.abc.Sequence[int], max_tokens: int, "
                    "drafts: collections.abc.Sequence[collections.abc.Sequence[int]] = ()) -> "
                    "list[tuple[int, list[int]]]"),
            "Drafts for each sequence from its own text, with drafts[i] behind it: (length of the match, tokens that\n"
            "followed it), (0, []) for none.")
        .def(
            "draft",
            [](Runner & self, const std::vector<int32_t> & seq_ids, int32_t max_rows) {
                std::vector<DraftToken> drafts;
                {
                    nb::gil_scoped_release release;
                    drafts = self.draft(seq_ids, max_rows);
                }
                std::vector<std::pair<int32_t, float>> result;
                for (const DraftToken & d : drafts) {
                    result.emplace_back(d.token, d.confidence);
                }
                return result;
            },
            "seq_ids"_a, "max_rows"_a,
            "One more token of the draft model for each sequence, behind those since its last step.\n\n"
            "Returns:\n"
            "    (token, probability of the likeliest token) each; token -1 for a sequence whose text the draft model has\n"
            "    not read yet, which it gets on with, or for what the target has no token for.\n\n"
            "Raises:\n"
            "    InvalidRequestError: there is no draft model. Others as Context.decode.");
}

} // namespace slipstream
