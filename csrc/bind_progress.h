// A Python callable that is told how far a long native call is, and may stop it.
#pragma once

#include <chrono>
#include <utility>

#include "bind.h"

namespace slipstream {

// Reports to a Python callable at most every 20 ms and at the ends; looks for Ctrl-C as it goes.
class Progress {
  public:
    explicit Progress(nb::object callback) : callback_(std::move(callback)) {}

    bool operator()(float fraction) {
        const auto now = std::chrono::steady_clock::now();
        if (fraction > 0.0f && fraction < 1.0f && now - last_ < std::chrono::milliseconds(20)) {
            return true;
        }
        last_ = now;
        nb::gil_scoped_acquire gil;
        if (PyErr_CheckSignals() != 0) {
            return false;
        }
        if (callback_.is_none()) {
            return true;
        }
        PyObject * result = PyObject_CallFunction(callback_.ptr(), "f", double(fraction));
        if (result == nullptr) {
            return false; // the exception stays set; rethrow_pending() throws it
        }
        const bool go_on = result != Py_False;
        Py_DECREF(result);
        return go_on;
    }

  private:
    nb::object callback_;
    std::chrono::steady_clock::time_point last_;
};

} // namespace slipstream
