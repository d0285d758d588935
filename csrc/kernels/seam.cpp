// Where ggml-cpu asks whether somebody computes a whole matrix product: its three entry points for tiled products.
// The build renames upstream's definitions (cmake/LlamaCpp.cmake); these come first and fall back to them.
// SLIPSTREAM_KERNELS=off in the environment leaves everything to upstream.
#include "seam.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "ggml-cpu-impl.h"
#include "qmatmul.h"
#include "tiled/tiled.h"

extern "C" {
size_t upstream_tiled_wdata_size(int n_tasks, ggml_tensor * dst);
bool upstream_mul_mat_tiled(const ggml_compute_params * params, ggml_tensor * dst);
bool upstream_mul_mat_id_tiled(const ggml_compute_params * params, ggml_tensor * dst, int64_t cur_a,
                               int64_t cne1, const int32_t * expert_rows, char * scratch);
}

namespace kernels = slipstream::kernels;

namespace {

bool enabled() {
    static const bool on = [] {
        const char * value = std::getenv("SLIPSTREAM_KERNELS");
        return value == nullptr || std::strcmp(value, "off") != 0;
    }();
    return on;
}

// Weights are one matrix of whole rows, activations and results rows of f32.
bool takes(const ggml_tensor * dst) {
    const ggml_tensor * weights = dst->src[0];
    const ggml_tensor * x = dst->src[1];
    return dst->op == GGML_OP_MUL_MAT && enabled() && kernels::serves(weights->type) && weights->ne[2] == 1 &&
           weights->ne[3] == 1 && weights->nb[0] == ggml_type_size(weights->type) &&
           x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && dst->type == GGML_TYPE_F32 &&
           dst->nb[0] == sizeof(float);
}

int64_t n_rows(const ggml_tensor * x) {
    return x->ne[1] * x->ne[2] * x->ne[3];
}

kernels::Activations * aligned(void * p) {
    return reinterpret_cast<kernels::Activations *>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t{63});
}

// The threads share the (row, chunk) pairs; layout: rows of one chunk lie together.
void quantize_share(const ggml_compute_params * params, const ggml_tensor * x, kernels::Activations * out) {
    const int64_t rows = n_rows(x), n = rows * kernels::n_chunks(x->ne[0]);
    for (int64_t i = n * params->ith / params->nth; i < n * (params->ith + 1) / params->nth; i++) {
        const int64_t row = i % rows;
        const int64_t i1 = row % x->ne[1], i2 = row / x->ne[1] % x->ne[2], i3 = row / (x->ne[1] * x->ne[2]);
        const char * data =
            static_cast<const char *>(x->data) + i1 * x->nb[1] + i2 * x->nb[2] + i3 * x->nb[3];
        kernels::quantize(reinterpret_cast<const float *>(data), x->ne[0], i / rows, out[i]);
    }
}

void multiply_share(const ggml_compute_params * params, const ggml_tensor * dst,
                    const kernels::Activations * activations) {
    const ggml_tensor * weights = dst->src[0];
    const ggml_tensor * x = dst->src[1];
    kernels::Product product;
    product.type = weights->type;
    product.weights = static_cast<const uint8_t *>(weights->data);
    product.weight_stride = weights->nb[1];
    product.n_columns = weights->ne[0];
    product.n_weights = weights->ne[1];
    product.chunk_stride = n_rows(x);
    product.out_stride = dst->nb[1];
    product.n_rows = x->ne[1];
    const int64_t n_panels = (product.n_weights + kernels::panel_rows() - 1) / kernels::panel_rows();
    // Enough shares that a thread which loses its core for a while does not keep the others waiting for long.
    const int64_t n_shares = params->nth == 1 ? 1 : std::min<int64_t>(n_panels, 8 * params->nth);
    for (int64_t share = params->ith; share < n_shares;
         share = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        for (int64_t plane = 0; plane < x->ne[2] * x->ne[3]; plane++) {
            const int64_t i2 = plane % x->ne[2], i3 = plane / x->ne[2];
            product.activations = activations + plane * x->ne[1];
            product.out =
                reinterpret_cast<float *>(static_cast<char *>(dst->data) + i2 * dst->nb[2] + i3 * dst->nb[3]);
            kernels::multiply(product, n_panels * share / n_shares, n_panels * (share + 1) / n_shares);
        }
    }
}

} // namespace

extern "C" {

size_t ggml_tiled_wdata_size(int n_tasks, ggml_tensor * dst) {
    size_t size = upstream_tiled_wdata_size(n_tasks, dst);
    if (takes(dst)) {
        const ggml_tensor * x = dst->src[1];
        const size_t ours = 64 + sizeof(kernels::Activations) * n_rows(x) * kernels::n_chunks(x->ne[0]);
        size = std::max(size, ours);
    }
    return size;
}

bool ggml_compute_forward_mul_mat_tiled(const ggml_compute_params * params, ggml_tensor * dst) {
    if (params->use_ref || !takes(dst)) {
        return upstream_mul_mat_tiled(params, dst);
    }
    kernels::Activations * activations = aligned(params->wdata);
    quantize_share(params, dst->src[1], activations);
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool,
                                  params->nth); // the first shares are the threads' numbers
    }
    ggml_barrier(params->threadpool);
    multiply_share(params, dst, activations);
    return true;
}

bool ggml_compute_forward_mul_mat_id_tiled(const ggml_compute_params * params, ggml_tensor * dst,
                                           int64_t cur_a, int64_t cne1, const int32_t * expert_rows,
                                           char * scratch) {
    return upstream_mul_mat_id_tiled(params, dst, cur_a, cne1, expert_rows, scratch);
}

const char * slipstream_kernels_isa(void) {
    return enabled() ? kernels::instruction_set() : nullptr;
}

bool slipstream_kernels_serve(ggml_type type) {
    return enabled() && kernels::serves(type);
}
}
