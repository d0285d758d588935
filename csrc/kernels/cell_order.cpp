#include "cell_order.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <unordered_map>

#include "ggml.h"

namespace slipstream::kernels {

namespace {

std::mutex mutex;
thread_local const void * current_owner = nullptr;

std::unordered_map<const void *, std::shared_ptr<CellOrder>> & orders() {
    static auto * all =
        new std::unordered_map<const void *, std::shared_ptr<CellOrder>>; // outlives every thread
    return *all;
}

} // namespace

void CellOrder::set_owner(const void * owner) {
    current_owner = owner;
}

void CellOrder::note(const ggml_tensor * set_rows) {
    const ggml_tensor * rows = set_rows->src[1];
    std::shared_ptr<CellOrder> order;
    {
        const std::lock_guard lock(mutex);
        std::shared_ptr<CellOrder> & slot = orders()[set_rows->data];
        if (slot == nullptr) {
            slot = std::make_shared<CellOrder>();
        }
        slot->owner_ = current_owner;
        order = slot;
    }
    const uint64_t end = uint64_t{order->now_} + static_cast<uint64_t>(rows->ne[0]);
    if (order->n_rows() != set_rows->ne[1] || end > std::numeric_limits<uint32_t>::max()) {
        order->written_.assign(static_cast<size_t>(set_rows->ne[1]), 0);
        order->now_ = 0;
    }
    for (int64_t i = 0; i < rows->ne[0]; i++) {
        const int64_t row =
            *reinterpret_cast<const int64_t *>(static_cast<const char *>(rows->data) + i * rows->nb[0]);
        if (row >= 0 && row < order->n_rows()) { // else the operation itself will complain
            order->written_[static_cast<size_t>(row)] = ++order->now_;
        }
    }
}

std::shared_ptr<const CellOrder> CellOrder::of(const void * data) {
    const std::lock_guard lock(mutex);
    const auto found = orders().find(data);
    return found == orders().end() ? nullptr : found->second;
}

void CellOrder::forget(const void * owner) {
    const std::lock_guard lock(mutex);
    for (auto it = orders().begin(); it != orders().end();) {
        it = it->second->owner_ == owner ? orders().erase(it) : std::next(it);
    }
}

void CellOrder::arrange(std::vector<int32_t> & cells, size_t begin, int64_t first_row) const {
    const auto written = [&](int32_t cell) { return written_[static_cast<size_t>(first_row + cell)]; };
    const auto is_before = [&](int32_t a, int32_t b) { return written(a) < written(b); };
    std::vector<std::ptrdiff_t> ends; // of stretches that are arranged; merged until one is left
    for (size_t i = begin + 1; i < cells.size(); i++) {
        if (is_before(cells[i], cells[i - 1])) {
            ends.push_back(static_cast<std::ptrdiff_t>(i));
        }
    }
    ends.push_back(static_cast<std::ptrdiff_t>(cells.size()));
    while (ends.size() > 1) {
        std::ptrdiff_t start = static_cast<std::ptrdiff_t>(begin);
        std::vector<std::ptrdiff_t> merged;
        for (size_t i = 0; i < ends.size(); i += 2) {
            const std::ptrdiff_t end = ends[std::min(i + 1, ends.size() - 1)];
            std::inplace_merge(cells.begin() + start, cells.begin() + ends[i], cells.begin() + end,
                               is_before);
            merged.push_back(start = end);
        }
        ends.swap(merged);
    }
}

} // namespace slipstream::kernels
