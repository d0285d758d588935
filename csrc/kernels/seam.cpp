// Where ggml-cpu asks whether somebody computes a whole matrix product: its three entry points for tiled products.
// The build renames upstream's definitions (cmake/LlamaCpp.cmake); these come first and fall back to them.
// SLIPSTREAM_KERNELS=off in the environment leaves everything to upstream.
#include "seam.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "attention.h"
#include "cell_order.h"
#include "ggml-cpu-impl.h"
#include "ops.h"
#include "qmatmul.h"
#include "tiled/tiled.h"

extern "C" {
size_t upstream_tiled_wdata_size(int n_tasks, ggml_tensor * dst);
bool upstream_mul_mat_tiled(const ggml_compute_params * params, ggml_tensor * dst);
void upstream_flash_attn_ext(const ggml_compute_params * params, ggml_tensor * dst);
void upstream_set_rows(const ggml_compute_params * params, ggml_tensor * dst);
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

// Weights are one matrix of whole rows, or one for each expert; activations and results rows of f32.
bool is_served(const ggml_tensor * weights) {
    return enabled() && kernels::serves(weights->type) && weights->ne[3] == 1 &&
           weights->nb[0] == ggml_type_size(weights->type);
}

bool takes(const ggml_tensor * dst) {
    const ggml_tensor * weights = dst->src[0];
    const ggml_tensor * x = dst->src[1];
    const bool is_one = dst->op == GGML_OP_MUL_MAT && weights->ne[2] == 1;
    return (is_one || dst->op == GGML_OP_MUL_MAT_ID) && is_served(weights) && x->type == GGML_TYPE_F32 &&
           x->nb[0] == sizeof(float) && dst->type == GGML_TYPE_F32 && dst->nb[0] == sizeof(float);
}

int64_t n_rows(const ggml_tensor * x) {
    return x->ne[1] * x->ne[2] * x->ne[3];
}

// Rows of one expert that are multiplied at once; each thread holds their activations.
constexpr int64_t kExpertRows = 64;

size_t expert_scratch_size(const ggml_tensor * dst) {
    return sizeof(kernels::Activations) * kExpertRows * kernels::n_chunks(dst->src[1]->ne[0]);
}

kernels::Activations * aligned(void * p) {
    return reinterpret_cast<kernels::Activations *>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t{63});
}

// The threads share the (row, chunk) pairs, in the order in which activations are read: a chunk is too short for hardware
// prefetchers to find out about it. Layout: rows of one chunk lie together.
void quantize_share(const ggml_compute_params * params, const ggml_tensor * dst, kernels::Activations * out) {
    const ggml_tensor * x = dst->src[1];
    const int64_t rows = n_rows(x), chunks = kernels::n_chunks(x->ne[0]), n = rows * chunks;
    for (int64_t i = n * params->ith / params->nth; i < n * (params->ith + 1) / params->nth; i++) {
        const int64_t row = i / chunks, chunk = i % chunks;
        const int64_t i1 = row % x->ne[1], i2 = row / x->ne[1] % x->ne[2], i3 = row / (x->ne[1] * x->ne[2]);
        const char * data =
            static_cast<const char *>(x->data) + i1 * x->nb[1] + i2 * x->nb[2] + i3 * x->nb[3];
        kernels::quantize(dst->src[0]->type, reinterpret_cast<const float *>(data), x->ne[0], chunk,
                          out[chunk * rows + row]);
    }
}

// Of one matrix, or of that of one expert.
kernels::Product product_of(const ggml_tensor * weights, int64_t expert = 0) {
    kernels::Product product{};
    product.type = weights->type;
    product.weights = static_cast<const uint8_t *>(weights->data) + expert * weights->nb[2];
    product.weight_stride = weights->nb[1];
    product.n_columns = weights->ne[0];
    product.n_weights = weights->ne[1];
    // ggml has its own use of `extra` in buffers of its own arrangement, whose products do not come here.
    if (const void * packed = __atomic_load_n(&weights->extra, __ATOMIC_ACQUIRE)) {
        product.packed = static_cast<const uint8_t *>(packed) + expert * kernels::packed_size(product);
    }
    return product;
}

int64_t n_panels(const kernels::Product & product) {
    return (product.n_weights + kernels::panel_rows() - 1) / kernels::panel_rows();
}

// Enough shares that a thread which loses its core for a while does not keep the others waiting for long.
int64_t n_shares(const ggml_compute_params * params, const kernels::Product & product) {
    return params->nth == 1 ? 1 : std::min<int64_t>(n_panels(product), 16 * params->nth);
}

void multiply_share(const ggml_compute_params * params, const ggml_tensor * dst,
                    const kernels::Activations * activations) {
    const ggml_tensor * x = dst->src[1];
    kernels::Product product = product_of(dst->src[0]);
    product.chunk_stride = n_rows(x);
    product.out_stride = dst->nb[1];
    product.n_rows = x->ne[1];
    const int64_t n = n_shares(params, product);
    const auto first_panel = [&](int64_t share) { return n_panels(product) * share / n; };
    for (int64_t share = params->ith, next; share < n; share = next) {
        next =
            ggml_threadpool_chunk_add(params->threadpool, 1); // early, to read it while this one is computed
        for (int64_t plane = 0; plane < x->ne[2] * x->ne[3]; plane++) {
            const int64_t i2 = plane % x->ne[2], i3 = plane / x->ne[2];
            product.activations = activations + plane * x->ne[1];
            product.out =
                reinterpret_cast<float *>(static_cast<char *>(dst->data) + i2 * dst->nb[2] + i3 * dst->nb[3]);
            kernels::multiply(product, first_panel(share), first_panel(share + 1),
                              next < n ? first_panel(next) : -1);
        }
    }
}

// Some rows of one expert: pairs of a slot of the token and the token. Every thread quantizes them for itself: that is
// little beside the products, and experts follow each other without a barrier.
void multiply_expert_rows(const ggml_compute_params * params, const ggml_tensor * dst, int64_t expert,
                          const int32_t * pairs, int64_t n_rows, kernels::Activations * activations) {
    const ggml_tensor * x = dst->src[1];
    kernels::Product product = product_of(dst->src[0], expert);
    product.activations = activations;
    product.chunk_stride = product.n_rows = n_rows;
    const int64_t first_panel = n_panels(product) * params->ith / params->nth;
    const int64_t last_panel = n_panels(product) * (params->ith + 1) / params->nth;
    if (first_panel < last_panel) {
        kernels::bring(product, first_panel);
    }
    float * out_rows[kExpertRows];
    product.out_rows = out_rows;
    for (int64_t row = 0; row < n_rows; row++) {
        const int64_t slot = pairs[2 * row], token = pairs[2 * row + 1];
        const char * data =
            static_cast<const char *>(x->data) + slot % x->ne[1] * x->nb[1] + token * x->nb[2];
        for (int64_t c = 0; c < kernels::n_chunks(product.n_columns); c++) {
            kernels::quantize(product.type, reinterpret_cast<const float *>(data), product.n_columns, c,
                              activations[c * n_rows + row]);
        }
        out_rows[row] = reinterpret_cast<float *>(static_cast<char *>(dst->data) + slot * dst->nb[1] +
                                                  token * dst->nb[2]);
    }
    kernels::multiply(product, first_panel, last_panel);
}

} // namespace

extern "C" {

size_t ggml_tiled_wdata_size(int n_tasks, ggml_tensor * dst) {
    if (!takes(dst)) {
        return upstream_tiled_wdata_size(n_tasks, dst);
    }
    const ggml_tensor * x = dst->src[1];
    return 64 + (dst->op == GGML_OP_MUL_MAT_ID
                     ? n_tasks * expert_scratch_size(dst)
                     : sizeof(kernels::Activations) * n_rows(x) * kernels::n_chunks(x->ne[0]));
}

bool ggml_compute_forward_mul_mat_tiled(const ggml_compute_params * params, ggml_tensor * dst) {
    if (params->use_ref || !takes(dst)) {
        return upstream_mul_mat_tiled(params, dst);
    }
    const kernels::Product product = product_of(dst->src[0]);
    const int64_t n = n_shares(params, product);
    if (params->ith < n) { // while activations are quantized and threads wait for each other
        kernels::bring(product, n_panels(product) * params->ith / n);
    }
    kernels::Activations * activations = aligned(params->wdata);
    quantize_share(params, dst, activations);
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool,
                                  params->nth); // the first shares are the threads' numbers
    }
    ggml_barrier(params->threadpool);
    multiply_share(params, dst, activations);
    return true;
}

// One expert; called by each thread with the same arguments, for one expert after the other. `scratch` is as large as
// ggml_tiled_wdata_size() asked for.
bool ggml_compute_forward_mul_mat_id_tiled(const ggml_compute_params * params, ggml_tensor * dst,
                                           int64_t cur_a, int64_t cne1, const int32_t * expert_rows,
                                           char * scratch) {
    if (params->use_ref || !takes(dst)) {
        return upstream_mul_mat_id_tiled(params, dst, cur_a, cne1, expert_rows, scratch);
    }
    kernels::Activations * activations = aligned(scratch + params->ith * expert_scratch_size(dst));
    for (int64_t row = 0; row < cne1; row += kExpertRows) {
        multiply_expert_rows(params, dst, cur_a, expert_rows + 2 * row, std::min(kExpertRows, cne1 - row),
                             activations);
    }
    return true;
}

// What our attention does not serve stays upstream's, which splits the KV cache over the threads for one row and the
// heads for several, which rounds differently. Where there are heads enough, one row goes the way of several, so that
// drafts and company do not change its bits. `use_ref` means just that here: no split, and no tiles, which one row has
// never.
void ggml_compute_forward_flash_attn_ext(const ggml_compute_params * params, ggml_tensor * dst) {
    if (enabled() && !params->use_ref && kernels::attends(dst)) {
        return kernels::attend(params, dst);
    }
    const ggml_tensor * queries = dst->src[0];
    ggml_compute_params ours = *params;
    if (enabled() && queries->ne[1] == 1 && queries->ne[2] >= 2 * params->nth) {
        ours.use_ref = true;
    }
    upstream_flash_attn_ext(&ours, dst);
}

// New keys and values go into the KV cache by this.
void ggml_compute_forward_set_rows(const ggml_compute_params * params, ggml_tensor * dst) {
    if (params->ith == 0 && slipstream_kernels_isa() != nullptr && dst->type == GGML_TYPE_F16 &&
        dst->ne[2] == 1 && dst->ne[3] == 1 && dst->src[1]->type == GGML_TYPE_I64) {
        kernels::CellOrder::note(dst);
    }
    upstream_set_rows(params, dst);
}

const char * slipstream_kernels_isa(void) {
    return enabled() ? kernels::instruction_set() : nullptr;
}

void slipstream_kernels_set_owner(const void * owner) {
    kernels::CellOrder::set_owner(owner);
}

void slipstream_kernels_forget(const void * owner) {
    kernels::CellOrder::forget(owner);
}

size_t slipstream_packed_size(const ggml_tensor * weights) {
    return is_served(weights) ? weights->ne[2] * kernels::packed_size(product_of(weights)) : 0;
}

void slipstream_pack(const ggml_tensor * weights, void * out, int64_t i, int64_t n) {
    for (int64_t expert = 0; expert < weights->ne[2]; expert++) {
        const kernels::Product product = product_of(weights, expert);
        kernels::pack(product, n_panels(product) * i / n, n_panels(product) * (i + 1) / n,
                      static_cast<uint8_t *>(out) + expert * kernels::packed_size(product));
    }
}

void slipstream_use_packed(ggml_tensor * weights, const void * packed) {
    __atomic_store_n(&weights->extra, const_cast<void *>(packed), __ATOMIC_RELEASE);
}

bool slipstream_kernels_serve(ggml_type type) {
    return enabled() && kernels::serves(type);
}
}
