#include "errors.h"

#include <cstdio>

namespace slipstream {

std::string format(const char * fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    std::string text(size_t(std::vsnprintf(nullptr, 0, fmt, args)), '\0');
    std::vsnprintf(text.data(), text.size() + 1, fmt, again);
    va_end(again);
    va_end(args);
    return text;
}

} // namespace slipstream
