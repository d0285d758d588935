#include "deep_stack.h"

#include <pthread.h>

#include <exception>
#include <new>

namespace slipstream {

namespace {

constexpr size_t FEW = 1 << 20;     // what every thread of Python's has left
constexpr size_t BESIDES = 1 << 20; // for everything that does not recurse

struct Call {
    const std::function<void()> & f;
    std::exception_ptr error;
};

void * run(void * data) {
    auto * call = static_cast<Call *>(data);
    try {
        call->f();
    } catch (...) {
        call->error = std::current_exception();
    }
    return nullptr;
}

} // namespace

void run_with_stack(size_t n_bytes, const std::function<void()> & f) {
    if (n_bytes <= FEW) {
        f();
        return;
    }
    constexpr size_t PAGE = 1 << 16; // a multiple of every page size
    Call call = {f, nullptr};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_t thread;
    const bool started =
        pthread_attr_setstacksize(&attributes, (n_bytes + BESIDES + PAGE - 1) / PAGE * PAGE) == 0 &&
        pthread_create(&thread, &attributes, run, &call) == 0;
    pthread_attr_destroy(&attributes);
    if (!started) {
        throw std::bad_alloc();
    }
    pthread_join(thread, nullptr);
    if (call.error) {
        std::rethrow_exception(call.error);
    }
}

} // namespace slipstream
