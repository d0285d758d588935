// A stack as deep as the input asks for: parts of llama.cpp recurse once per character.
#pragma once

#include <cstddef>
#include <functional>

namespace slipstream {

// Calls `f` and returns when it has: here if `n_bytes` of stack are few, else on a thread that has them. Pages that
// are not touched cost nothing. Throws what `f` throws, and std::bad_alloc if there is no such thread.
void run_with_stack(size_t n_bytes, const std::function<void()> & f);

} // namespace slipstream
