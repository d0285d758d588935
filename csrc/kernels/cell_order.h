// In which order the cells of a KV cache were written.
//
// llama.cpp gives a token any free cell, so the cells of one sequence need not lie in the order of its tokens: that
// depends on what others left free. Sums in f32 depend on their order. A sequence's tokens are written one after the
// other, so by the order of writing attention adds up the same numbers in the same order in any company. Cells that
// were filled in another way, from a saved state, count as what they held before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

struct ggml_tensor;

namespace slipstream::kernels {

class CellOrder {
  public:
    // On whose behalf this thread computes from now on.
    static void set_owner(const void * owner);
    // Notes that rows of a tensor are written, by a GGML_OP_SET_ROWS. The thread that asked for the graph.
    static void note(const ggml_tensor * set_rows);
    // That of the tensor whose rows begin at an address; null if none were written. Any thread. It stays alive with the
    // pointer, and changes only by note() on the same tensor.
    static std::shared_ptr<const CellOrder> of(const void * data);
    // Lets go of all that was noted on somebody's behalf. Any thread, when no graph of theirs is computed.
    static void forget(const void * owner);

    // Whether row `a` was written after row `b`, or, if none of the two ever was, is behind it.
    bool is_after(int64_t a, int64_t b) const {
        return written_[static_cast<size_t>(a)] >= written_[static_cast<size_t>(b)];
    }
    // Arranges cells by their rows `first_row + cell`. They are given in rising order and mostly are arranged already.
    void arrange(std::vector<int32_t> & cells, size_t begin, int64_t first_row) const;
    int64_t n_rows() const { return static_cast<int64_t>(written_.size()); }

  private:
    std::vector<uint32_t> written_; // when, counted in rows; 0: never
    uint32_t now_ = 0;
    const void * owner_ = nullptr;
};

} // namespace slipstream::kernels
