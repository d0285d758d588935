// Attention of query rows to the cached cells that their masks show, on f16 keys and values.
//
// A row's visible cells are listed first, so that what other sequences and cached prefixes hold costs next to nothing.
// The list is worked through 64 cells at a time with a running maximum (Milakov and Gimelshein 2018, Rabe and Staats
// 2021): keys are transposed so that lanes are cells, scores and sums add up in the order of the list, and all queries
// that see the same cells, the heads of a group and the rows of a prompt, share the work of reading them. A query sees
// the same operations in the same order in any company: its result is bit-identical, wherever its cells lie.
#pragma once

#include "qmatmul.h"

struct ggml_compute_params;

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// Whether attend() computes this GGML_OP_FLASH_ATTN_EXT: f16 keys and values in heads of a multiple of 16, no ALiBi.
bool attends(const ggml_tensor * dst);
// Called by every thread of the operation.
void attend(const ggml_compute_params * params, ggml_tensor * dst);

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
