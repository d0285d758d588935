// The extension module: llama.cpp's start-up, then one bind_*() per topic.
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "build_info.h"
#include "context.h"
#include "fingerprint.h"
#include "llama.h"
#include "native_log.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace slipstream;

NB_MODULE(_core, m) {
    m.doc() =
        "Slipstream's native core: llama.cpp with every precondition checked. Use it through slipstream.native.";
    install_log();
    llama_backend_init();
    bind_errors(m);
    bind_model(m);
    bind_context(m);
    bind_sampler(m);
    bind_draft(m);
    bind_runner(m);
    bind_chat(m);
    bind_projector(m);
    bind_quantize(m);
    m.def(
        "build_info",
        [] {
            const BuildInfo info = build_info();
            nb::dict d;
            d["fingerprint"] = format("%016llx", (unsigned long long)fingerprint_build());
            d["llama_cpp_commit"] = info.llama_commit;
            d["llama_cpp_version"] = info.llama_version;
            d["ggml_version"] = info.ggml_version;
            d["backend"] = info.backend;
            d["flags"] = info.flags;
            d["compiler"] = info.compiler;
            d["devices"] = info.devices;
            d["cpu_features"] = info.cpu_features;
            nb::dict kernels;
            for (const auto & [type, isa] : info.kernels) {
                kernels[nb::str(type.c_str())] = isa;
            }
            d["kernels"] = kernels;
            return d;
        },
        nb::sig("def build_info() -> dict[str, typing.Any]"),
        "What this build is made of: a fingerprint of all of it (saved states fit no other), llama.cpp commit and version, ggml\n"
        "version, backend, compiler, flags, devices, CPU features, and by weight type the instruction set of our own matrix product (empty if upstream computes all).");
    m.def(
        "drain_log",
        [] {
            nb::list lines;
            for (const LogLine & line : drain_log()) {
                lines.append(nb::make_tuple(line.level, to_text(line.text)));
            }
            return lines;
        },
        nb::sig("def drain_log() -> list[tuple[int, str]]"),
        "Take llama.cpp's buffered log lines as (level, text), oldest first; levels are 2 info, 3 warning, 4 error.");
    m.def("default_threads", &default_threads, "Physical cores this process may run on, at least 1.");
}
