// One thread at a time: the second gets an error instead of a wait or a race.
#pragma once

#include <atomic>

#include "errors.h"

namespace slipstream {

class Busy {
  private:
    friend class Turn;
    std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
};

// Holds a Busy. Throws ContextBusyError if it is held, by this thread, too.
class Turn {
  public:
    Turn(Busy & busy, const char * what) : busy_(busy) {
        if (busy_.taken_.test_and_set(std::memory_order_acquire)) {
            throw Error("ContextBusyError",
                        std::string("this ") + what +
                            " is in use by another thread; give each thread its own, or take turns");
        }
    }
    ~Turn() { busy_.taken_.clear(std::memory_order_release); }
    Turn(const Turn &) = delete;
    Turn & operator=(const Turn &) = delete;

  private:
    Busy & busy_;
};

} // namespace slipstream
