// The one exception type of the core. Its kind is the name of a class in slipstream.base.errors; bind_errors.cpp
// turns it into that class, so that the Python tree has one home.
#pragma once

#include <cstdarg>
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

} // namespace slipstream
