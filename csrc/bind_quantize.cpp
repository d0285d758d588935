#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "bind_progress.h"
#include "errors.h"
#include "quantize.h"

namespace slipstream {

using namespace nb::literals;

void bind_quantize(nb::module_ & m) {
    m.def("quantize_types", &quantize_types, "What quantize() writes, smallest first.");
    m.def(
        "quantize",
        [](const std::string & source, const std::string & target, const std::string & type,
           int32_t n_threads, bool allow_requantize, bool keep_output, bool pure, nb::object progress) {
            Progress report(std::move(progress));
            try {
                nb::gil_scoped_release release;
                quantize_file(source, target, {type, n_threads, allow_requantize, keep_output, pure},
                              [&](float fraction) { return report(fraction); });
            } catch (const Error &) {
                rethrow_pending(); // Ctrl-C or the callback asked for it
                throw;
            }
            rethrow_pending();
        },
        "source"_a, "target"_a, "type"_a, nb::kw_only(), "n_threads"_a = 0, "allow_requantize"_a = false,
        "keep_output"_a = false, "pure"_a = false, "progress"_a = nb::none(),
        nb::sig(
            "def quantize(source: str, target: str, type: str, *, n_threads: int = 0, allow_requantize: bool = False, "
            "keep_output: bool = False, pure: bool = False, "
            "progress: collections.abc.Callable[[float], bool | None] | None = None) -> None"),
        "Write a model file with its weights in another type. Use slipstream.native.quantize, which checks both files.\n\n"
        "Args:\n"
        "    source: A .gguf file; of a split model its first part.\n"
        "    target: The file to write, another one; what a failure leaves of it is the caller's to remove.\n"
        "    type: One of quantize_types().\n"
        "    n_threads: 0 means the physical cores.\n"
        "    allow_requantize: Start from weights that are quantized already.\n"
        "    keep_output: Leave the output matrix as it is.\n"
        "    pure: Every matrix in that type, rather than a mix by layer.\n"
        "    progress: Called on this thread with 0 to 1; returning False cancels.\n\n"
        "Raises:\n"
        "    InvalidRequestError: an unknown type.\n"
        "    ModelLoadError: the source cannot be quantized like that, or it was cancelled.");
}

} // namespace slipstream
