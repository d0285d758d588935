#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "bind.h"
#include "projector.h"

namespace slipstream {

using namespace nb::literals;

void bind_projector(nb::module_ & m) {
    nb::class_<Picture>(m, "Picture", "An image, or a slice of one, in a prompt. Made by Projector.tokenize.")
        .def_prop_ro("image", &Picture::image, "Index of its image among those given to tokenize().")
        .def_prop_ro("n_tokens", &Picture::n_tokens, "Cells it takes in memory.")
        .def_prop_ro("n_positions", &Picture::n_positions,
                     "Positions it takes in a sequence; with M-RoPE fewer than tokens.")
        .def_prop_ro("n_bytes", &Picture::n_bytes, "Size of its embeddings, 0 before encode().");

    nb::class_<Projector>(m, "Projector", "Turns images into what a model computes in the place of tokens.")
        .def(nb::init<const Model &, const std::string &, const std::string &, int32_t, bool>(),
             nb::call_guard<nb::gil_scoped_release>(), "model"_a, "path"_a, "marker"_a, "n_threads"_a = 0,
             "gpu"_a = false,
             "Load a projector file (mmproj). `marker` stands for an image in texts.\n\n"
             "Raises:\n"
             "    ModelLoadError: no projector for images, or one for another model.")
        .def("close", &Projector::close,
             "Let go of it; a call on another thread goes on to its end. Idempotent.")
        .def(
            "tokenize",
            [](const Projector & self, std::string_view text, nb::list images, bool add_special) {
                std::vector<std::string_view> views;
                for (nb::handle image : images) {
                    const auto data = nb::cast<nb::bytes>(image);
                    views.emplace_back(data.c_str(), data.size()); // the list keeps it alive
                }
                std::vector<PromptPart> parts;
                {
                    nb::gil_scoped_release release;
                    parts = self.tokenize(text, views, add_special);
                }
                nb::list result;
                for (PromptPart & part : parts) {
                    if (part.picture) {
                        result.append(part.picture);
                        continue;
                    }
                    nb::list tokens;
                    for (const int32_t token : part.tokens) {
                        tokens.append(token);
                    }
                    result.append(tokens);
                }
                return result;
            },
            "text"_a, "images"_a, "add_special"_a,
            nb::sig("def tokenize(self, text: str, images: list[bytes], add_special: bool) -> "
                    "list[list[int] | Picture]"),
            "Split a text with a marker for each image into runs of token ids and pictures. Any thread.\n\n"
            "Raises:\n"
            "    InvalidRequestError: other markers than images, or an image that cannot be read or is too large.")
        .def(
            "encode", &Projector::encode, nb::call_guard<nb::gil_scoped_release>(), "picture"_a,
            "Compute a picture's embeddings, if it has none yet. Takes as long as a prompt of its size; any thread,\n"
            "one at a time.\n\n"
            "Raises:\n"
            "    ComputeError: the backend failed.")
        .def("decode", &Projector::decode, nb::call_guard<nb::gil_scoped_release>(), "context"_a, "seq_id"_a,
             "position"_a, "picture"_a,
             "Compute an encoded picture at `position` of a sequence.\n\n"
             "Raises:\n"
             "    InvalidBatchError, NoKVSlotError, DecodeAborted, ComputeError: as Context.decode.");
}

} // namespace slipstream
