// Mapped weights in huge pages. Reading all weights for every token takes a look-up of each 4 KiB page; of pages of 2 MiB there
// are 500 times fewer, and hardware prefetchers do not stop at their ends. As that takes a copy, it is one that our kernels
// read with less arithmetic (kernels/packed.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "llama.h"

namespace slipstream {

// Anonymous memory in huge pages, if the system has them.
class HugeMemory {
  public:
    HugeMemory() = default;
    ~HugeMemory();
    HugeMemory(const HugeMemory &) = delete;
    HugeMemory & operator=(const HugeMemory &) = delete;

    // Once. Returns where it begins; null if there is none.
    char * allocate(size_t bytes);
    // It was moved elsewhere and is not this object's any more.
    void forget() { begin_ = nullptr; }

  private:
    char * begin_ = nullptr;
    size_t n_bytes_ = 0;
};

// Copies the parts of a model that are mapped from its file into huge pages while others read them: weights that our kernels
// serve as they like them best, into `memory`, which lives as long as the model; or, where they serve less than half of the
// bytes, everything, moved to the same addresses. Linux only; elsewhere, and where memory is short or the kernel has no
// huge pages for who asks, it does nothing.
class HugePages {
  public:
    // Begins, on a thread of its own.
    HugePages(std::shared_ptr<llama_model> model, std::shared_ptr<HugeMemory> memory);
    // Stops it; what has been copied stays in use.
    ~HugePages();
    HugePages(const HugePages &) = delete;
    HugePages & operator=(const HugePages &) = delete;

    // Until it is done. Any thread.
    void wait() const { done_.wait(); }
    size_t n_bytes() const { return n_bytes_.load(std::memory_order_relaxed); } // copied so far

  private:
    void run();
    void pack(const std::vector<ggml_tensor *> & tensors);
    void move();

    std::shared_ptr<llama_model> model_;
    std::shared_ptr<HugeMemory> memory_;
    std::atomic<size_t> n_bytes_{0};
    std::atomic<bool> stop_{false};
    std::promise<void> promise_;
    std::shared_future<void> done_;
    std::thread thread_;
};

} // namespace slipstream
