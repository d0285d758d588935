// Which cells some adjacent query rows see, as lists that rows share where one row's cells are the next one's, too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cell_order.h"
#include "simd_float.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

constexpr uint16_t kHidden = 0xfc00; // minus infinity as f16
constexpr int kMostRows = 64;

// Rows [first, first + n) see cells[start[i], end[i]) of one list; both rise from row to row.
struct Run {
    int first = 0, n = 0;
    size_t cells = 0; // where the list begins in Visible::cells
    bool biased =
        false; // the mask holds other numbers than 0, which are added to the scores; always one row alone
    int32_t start[kMostRows] = {}, end[kMostRows] = {};
};

struct Visible {
    std::vector<Run> runs;
    std::vector<int32_t> cells;

    // Row i's mask is at `mask + i * stride` bytes, n_cells f16 numbers; null: all is seen. `windows`: a row may also
    // lose the first cells of the one before and share its list, which then begins elsewhere than alone.
    // `order`: of the cells, which are its rows from `first_row` on; null: as they lie.
    void list(const char * mask, size_t stride, int n_rows, int64_t n_cells, bool windows,
              const CellOrder * order, int64_t first_row) {
        order_ = order;
        first_row_ = first_row;
        runs.clear();
        cells.clear();
        seen_.resize(static_cast<size_t>((n_cells + 63) / 64));
        before_.resize(seen_.size());
        for (int row = 0; row < n_rows; row++) {
            seen_.swap(before_);
            const bool biased = look(mask == nullptr ? nullptr : mask + row * stride, n_cells);
            if (runs.empty() || biased || runs.back().biased || !extend(windows)) {
                begin(row, biased);
            }
        }
    }

  private:
    std::vector<uint64_t> seen_, before_; // a bit for each cell, of this row and the one before
    const CellOrder * order_ = nullptr;
    int64_t first_row_ = 0;

    // Notes the visible cells of a row; true if its mask has other numbers than 0 for one.
    bool look(const char * mask, int64_t n_cells) {
        const uint16_t * values = reinterpret_cast<const uint16_t *>(mask);
        bool biased = false;
        for (int64_t first = 0; first < n_cells; first += 64) {
            const int64_t n = n_cells - first < 64 ? n_cells - first : 64;
            uint64_t visible = n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
            if (values != nullptr && n == 64) {
                visible = differ64(values + first, kHidden);
                biased |= (visible & differ64(values + first, 0)) != 0;
            } else if (values != nullptr) {
                for (int64_t i = 0; i < n; i++) {
                    visible &= ~(uint64_t{values[first + i] == kHidden} << i);
                    biased |= values[first + i] != kHidden && values[first + i] != 0;
                }
            }
            seen_[static_cast<size_t>(first / 64)] = visible;
        }
        return biased;
    }

    template <typename Take>
    static void each(uint64_t bits, size_t word, Take take) {
        for (; bits != 0; bits &= bits - 1) {
            take(static_cast<int32_t>(word * 64 + static_cast<size_t>(__builtin_ctzll(bits))));
        }
    }

    void begin(int row, bool biased) {
        Run & run = runs.emplace_back();
        run.first = row;
        run.n = 1;
        run.cells = cells.size();
        run.biased = biased;
        for (size_t word = 0; word < seen_.size(); word++) {
            each(seen_[word], word, [&](int32_t cell) { cells.push_back(cell); });
        }
        if (order_ != nullptr) {
            order_->arrange(cells, run.cells, first_row_);
        }
        run.end[0] = static_cast<int32_t>(cells.size() - run.cells);
    }

    // Adds this row to the last run, if the cells it sees follow from those of the row before.
    bool extend(bool windows) {
        Run & run = runs.back();
        const int32_t start = run.start[run.n - 1], end = run.end[run.n - 1];
        int32_t n_gone = 0;
        for (size_t word = 0; word < seen_.size(); word++) {
            n_gone += static_cast<int32_t>(__builtin_popcountll(before_[word] & ~seen_[word]));
        }
        if (n_gone > 0 && (!windows || n_gone == end - start)) {
            return false;
        }
        for (int32_t i = start; i < start + n_gone; i++) {
            const int32_t cell = cells[run.cells + static_cast<size_t>(i)];
            if ((seen_[static_cast<size_t>(cell / 64)] >> (cell % 64) & 1) != 0) {
                return false;
            }
        }
        const size_t n_before = cells.size();
        for (size_t word = 0; word < seen_.size(); word++) {
            each(seen_[word] & ~before_[word], word, [&](int32_t cell) { cells.push_back(cell); });
        }
        if (order_ != nullptr && cells.size() > n_before) {
            order_->arrange(cells, n_before, first_row_);
            if (end > 0 &&
                !order_->is_after(first_row_ + cells[n_before], first_row_ + cells[n_before - 1])) {
                cells.resize(n_before);
                return false;
            }
        }
        run.start[run.n] = start + n_gone;
        run.end[run.n++] = static_cast<int32_t>(cells.size() - run.cells);
        return true;
    }
};

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
