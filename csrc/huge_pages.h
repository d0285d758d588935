// Mapped weights in huge pages. Reading all weights for every token takes a look-up of each 4 KiB page; of pages of 2 MiB there
// are 500 times fewer, and hardware prefetchers do not stop at their ends.
#pragma once

#include <atomic>
#include <cstddef>
#include <future>
#include <memory>
#include <thread>

#include "llama.h"

namespace slipstream {

// Copies the parts of a model that are mapped from its file into huge pages and puts these in their place, at the same
// addresses, while others read them. Linux only; elsewhere, and where memory is short or the kernel has no huge pages
// for who asks, it does nothing.
class HugePages {
  public:
    // Begins, on a thread of its own.
    explicit HugePages(std::shared_ptr<llama_model> model);
    // Stops it; what has been moved stays so.
    ~HugePages();
    HugePages(const HugePages &) = delete;
    HugePages & operator=(const HugePages &) = delete;

    // Until it is done. Any thread.
    void wait() const { done_.wait(); }
    size_t n_bytes() const { return n_bytes_.load(std::memory_order_relaxed); } // moved so far

  private:
    void run();

    std::shared_ptr<llama_model> model_;
    std::atomic<size_t> n_bytes_{0};
    std::atomic<bool> stop_{false};
    std::promise<void> promise_;
    std::shared_future<void> done_;
    std::thread thread_;
};

} // namespace slipstream
