#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "runner.h"

namespace slipstream {

using namespace nb::literals;

namespace {

nb::bytes to_bytes(const std::string & text) {
    return nb::bytes(text.data(), text.size());
}

// (token ids, pieces, is_eog, logprobs), lists of one entry per row; a logprob is None or
// (token, piece, logprob, [(token, piece, logprob), ...]).
nb::tuple to_python(const std::vector<RowResult> & rows) {
    nb::list tokens, pieces, is_eog, logprobs;
    for (const RowResult & row : rows) {
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
    return nb::make_tuple(tokens, pieces, is_eog, logprobs);
}

} // namespace

void bind_runner(nb::module_ & m) {
    nb::class_<Runner>(m, "Runner",
                       "The engine's step on a context: decode, sample and detokenize in one call.")
        .def(nb::init<Context &>(), nb::keep_alive<1, 2>(), "context"_a)
        .def(
            "open_sequence", &Runner::open_sequence, nb::call_guard<nb::gil_scoped_release>(), "seq_id"_a,
            "params"_a, "n_logprobs"_a, "special"_a, "prompt"_a,
            "Give a sequence a fresh sampler that has seen `prompt`. `n_logprobs` -1 means none; `special` renders control tokens.")
        .def("close_sequence", &Runner::close_sequence, "seq_id"_a,
             "Drop its sampler; its tokens stay in memory.")
        .def(
            "trim", &Runner::trim, nb::call_guard<nb::gil_scoped_release>(), "seq_id"_a, "n_tokens"_a,
            "Keep the first `n_tokens` tokens of a sequence. False if this memory cannot; nothing has changed then.")
        .def(
            "step",
            [](Runner & self, std::vector<int32_t> seq_ids, std::vector<int32_t> starts,
               std::vector<int32_t> counts, std::vector<int32_t> tokens, std::vector<bool> sample) {
                Step step = {std::move(seq_ids), std::move(starts), std::move(counts), std::move(tokens),
                             std::vector<uint8_t>(sample.begin(), sample.end())};
                std::vector<RowResult> rows;
                {
                    nb::gil_scoped_release release;
                    rows = self.step(step);
                }
                return to_python(rows);
            },
            "seq_ids"_a, "starts"_a, "counts"_a, "tokens"_a, "sample"_a,
            nb::sig(
                "def step(self, seq_ids: collections.abc.Sequence[int], starts: collections.abc.Sequence[int], "
                "counts: collections.abc.Sequence[int], tokens: collections.abc.Sequence[int], "
                "sample: collections.abc.Sequence[bool]) -> tuple[list[int], list[bytes], list[bool], "
                "list[tuple[int, bytes, float, list[tuple[int, bytes, float]]] | None]]"),
            "Compute counts[i] tokens of each sequence from position starts[i]; sample after the last where sample[i].\n\n"
            "Returns:\n"
            "    Token ids, their bytes, whether each ends a generation, and log-probabilities, one per sampled sequence.\n\n"
            "Raises:\n"
            "    InvalidBatchError, NoKVSlotError, DecodeAborted, ComputeError: as Context.decode.");
}

} // namespace slipstream
