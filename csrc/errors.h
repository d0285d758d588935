// The one exception type of the core. Its kind is the name of a class in slipstream.base.errors; bind_errors.cpp
// turns it into that class, so that the Python tree has one home.
#pragma once

#include <cstdarg>
#include <new>
#include <stdexcept>
#include <string>

namespace slipstream {

class Error : public std::runtime_error {
  public:
    Error(const char * kind, const std::string & message, std::string detail = {})
        : std::runtime_error(message), kind_(kind), detail_(std::move(detail)) {}

    const char * kind() const { return kind_; }
    // The request field at fault; for ModelLoadError the path of the file.
    const std::string & detail() const { return detail_; }

  private:
    const char * kind_;
    std::string detail_;
};

// printf into a std::string.
std::string format(const char * fmt, ...) __attribute__((format(printf, 1, 2)));

// Runs a call into llama.cpp, much of whose C interface lets C++ exceptions out; they become an Error of `kind`.
// Memory that runs out stays std::bad_alloc, Python's MemoryError.
template <class F>
auto guarded(const char * kind, const char * what, F && call, const char * detail = "") {
    try {
        return call();
    } catch (const Error &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & e) {
        throw Error(kind, std::string(what) + ": " + e.what(), detail);
    }
}

} // namespace slipstream
