// What the bind_*.cpp files share. Only they and module.cpp know nanobind.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string_view>

namespace slipstream {

namespace nb = nanobind;

// Text of files and templates, which need not be UTF-8: what is none becomes U+FFFD.
inline nb::str to_text(std::string_view text) {
    return nb::steal<nb::str>(PyUnicode_DecodeUTF8(text.data(), Py_ssize_t(text.size()), "replace"));
}

void bind_errors(nb::module_ & m);
void bind_model(nb::module_ & m);
void bind_context(nb::module_ & m);
void bind_sampler(nb::module_ & m);
void bind_runner(nb::module_ & m);
void bind_draft(nb::module_ & m);
void bind_chat(nb::module_ & m);
void bind_projector(nb::module_ & m);
void bind_quantize(nb::module_ & m);

// A Ctrl-C check for calls that may take long: true once Python's signal handlers have raised. Only the main thread
// runs handlers, so elsewhere it never is.
bool python_interrupted();
// Throws the pending Python exception (KeyboardInterrupt, or one a callback raised), if there is one. Needs the GIL.
void rethrow_pending();

} // namespace slipstream
