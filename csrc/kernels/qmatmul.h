// Matrix product of quantized weights, as they lie in the file, with f32 activations.
//
// A panel is a group of adjacent weight rows. It is decoded, 256 columns at a time, into bytes whose vector lanes are
// the panel's rows, and then meets every activation row. An integer vector so holds one block's sums of all the
// panel's rows at once: no sums across lanes, and one conversion to float per block and panel instead of per row.
// An activation row sees the same operations in the same order however many there are: its result is bit-identical.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml.h"

// The C++ test compiles the kernels a second time for another instruction set.
#ifndef SLIPSTREAM_KERNELS_NAMESPACE
#define SLIPSTREAM_KERNELS_NAMESPACE native
#endif

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

constexpr int kChunk = 256; // columns decoded at a time

// 256 activations of one row. Blocks of 32 share a scale, or all do: then the integer scales that K-quants have for their
// blocks multiply integers. Sums are kept for weights that are stored with an offset or a minimum.
struct Activations {
    int8_t q[kChunk];
    float d[kChunk / 32];
    float d_sum[kChunk / 32]; // d times the sum of q: multiplies the minimum of a weight block
    int16_t is_narrow;        // with one scale: whether sums of products of any block of weights fit 16 bits
    int16_t sum32[kChunk / 32], sum16[kChunk / 16];
    // Times what the weights are offset by: sums of products begin here.
    int32_t start32[kChunk / 32];
    int32_t start16[kChunk / 16];
};

// The instruction set this was compiled for, or null where there are no kernels.
const char * instruction_set();
bool serves(ggml_type type);

constexpr int64_t n_chunks(int64_t n_columns) {
    return (n_columns + kChunk - 1) / kChunk;
}

// Quantizes columns [256 chunk, …) of one row for weights of a type; a short last chunk is filled up with zeros.
void quantize(ggml_type weights, const float * row, int64_t n_columns, int64_t chunk, Activations & out);

struct Product {
    ggml_type type;
    const uint8_t * weights;
    size_t weight_stride;            // bytes from one weight row to the next
    int64_t n_columns;               // of a weight row: the length of the dot products
    int64_t n_weights;               // weight rows
    const Activations * activations; // of chunk c and row r: [c * chunk_stride + r]
    int64_t chunk_stride;
    int64_t n_rows;
    float * out;
    size_t out_stride;                  // bytes from one result row to the next
    float * const * out_rows = nullptr; // or where each result row is, if they are scattered
    const uint8_t * packed = nullptr;   // the whole panels of the weights by pack(), if somebody did it

    float * out_row(int64_t row) const {
        return out_rows != nullptr
                   ? out_rows[row]
                   : reinterpret_cast<float *>(reinterpret_cast<char *>(out) + row * out_stride);
    }
};

int panel_rows();
// Computes the results of the panels [first, last), all activation rows. Meanwhile brings the panel `upcoming` into the
// cache, which the thread computes next; negative: none.
void multiply(const Product & product, int64_t first_panel, int64_t last_panel, int64_t upcoming = -1);
// The bytes of a product's weights as pack() arranges them: those of the file's, with chunks of panels rounded up to cache
// lines; 0 if no panel is whole, or the type is not served.
size_t packed_size(const Product & product);
// Writes the whole panels among [first, last) to their places in `out`, which is for all and best aligned to 64 bytes. They
// take less arithmetic to read than what lies in the file, which is still needed for the rows of a last panel that is not whole.
void pack(const Product & product, int64_t first_panel, int64_t last_panel, uint8_t * out);
// Asks for a panel's memory, which is then read beside other work.
void bring(const Product & product, int64_t panel);

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
