// slipstream::Error to the class of the same name in slipstream.base.errors, which is the tree's one home.
#include <nanobind/stl/string.h>

#include "bind.h"
#include "errors.h"

namespace slipstream {

namespace {

void raise_in_python(const Error & error) {
    nb::object type = nb::module_::import_("slipstream.base.errors").attr(error.kind());
    nb::dict details;
    if (!error.detail().empty()) {
        details[std::string(error.kind()) == "ModelLoadError" ? "path" : "param"] = to_text(error.detail());
    }
    // Text from a hostile file may be no UTF-8; the message must get through all the same.
    nb::object value = type(to_text(error.what()), **details);
    PyErr_SetObject(type.ptr(), value.ptr());
}

} // namespace

void bind_errors(nb::module_ &) {
    nb::register_exception_translator([](const std::exception_ptr & p, void *) {
        try {
            std::rethrow_exception(p);
        } catch (const Error & error) {
            try {
                raise_in_python(error);
            } catch (nb::python_error & inner) {
                inner.restore();
            }
        }
    });
}

bool python_interrupted() {
    nb::gil_scoped_acquire gil;
    return PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0;
}

void rethrow_pending() {
    if (PyErr_Occurred() != nullptr) {
        throw nb::python_error();
    }
}

} // namespace slipstream
