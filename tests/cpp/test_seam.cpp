// Checks the products as ggml asks for them, through the seam: matrices, planes of activations, experts, threads.
// Bits must not depend on rows, experts' company or threads, and values must be near those of decoded weights.
// Exits with the number of failures.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "ggml-cpu.h"
#include "ggml.h"
#include "kernels/seam.h"

namespace {

constexpr int64_t kExperts = 5;
int n_failures = 0;

void check(bool ok, ggml_type type, int64_t rows, int n_threads, const char * what) {
    if (!ok) {
        n_failures++;
        std::fprintf(stderr, "%s: %s, %d rows, %d threads\n", what, ggml_type_name(type),
                     static_cast<int>(rows), n_threads);
    }
}

std::vector<float> random_floats(int64_t n, std::mt19937 & random) {
    std::normal_distribution<float> normal;
    std::vector<float> values(n);
    for (float & v : values) {
        v = normal(random);
    }
    return values;
}

// One matrix for each expert.
struct Weights {
    ggml_type type;
    int64_t columns, rows;
    std::vector<uint8_t> quantized;
    std::vector<float> decoded;

    Weights(ggml_type t, int64_t c, int64_t r, std::mt19937 & random) : type(t), columns(c), rows(r) {
        const std::vector<float> values = random_floats(columns * rows * kExperts, random);
        // Types of two bits and less want to know what matters.
        const std::vector<float> importance(columns, 1.0f);
        quantized.resize(ggml_row_size(type, columns) * rows * kExperts);
        decoded.resize(values.size());
        ggml_quantize_chunk(type, values.data(), quantized.data(), 0, rows * kExperts, columns,
                            importance.data());
        ggml_get_type_traits(type)->to_float(quantized.data(), decoded.data(),
                                             static_cast<int64_t>(values.size()));
    }
};

using Context = std::unique_ptr<ggml_context, decltype(&ggml_free)>;

Context new_context() {
    return {ggml_init({size_t{64} << 20, nullptr, false}), ggml_free};
}

// Twice: with the weights as they are, and packed.
std::vector<float> compute(ggml_context * context, ggml_tensor * result, int n_threads) {
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, result);
    ggml_graph_compute_with_ctx(context, graph, n_threads);
    const float * data = static_cast<const float *>(result->data);
    const std::vector<float> found{data, data + ggml_nelements(result)};
    ggml_tensor * weights = result->src[0];
    std::vector<uint8_t> packed(slipstream_packed_size(weights));
    slipstream_pack(weights, packed.data(), 0, 2);
    slipstream_pack(weights, packed.data(), 1, 2);
    slipstream_use_packed(weights, packed.data());
    std::fill_n(static_cast<float *>(result->data), found.size(), -1.0f);
    ggml_graph_compute_with_ctx(context, graph, n_threads);
    slipstream_use_packed(weights, nullptr);
    check(std::memcmp(result->data, found.data(), found.size() * sizeof(float)) == 0, weights->type,
          weights->ne[1], n_threads, "packed weights give something else");
    return found;
}

// [columns, rows, planes] times one expert's matrix.
std::vector<float> multiply(const Weights & w, int64_t expert, const float * x, int64_t rows, int64_t planes,
                            int n_threads) {
    const Context context = new_context();
    ggml_tensor * weights = ggml_new_tensor_2d(context.get(), w.type, w.columns, w.rows);
    ggml_tensor * input = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, w.columns, rows, planes);
    std::memcpy(weights->data, &w.quantized[expert * ggml_nbytes(weights)], ggml_nbytes(weights));
    std::memcpy(input->data, x, ggml_nbytes(input));
    return compute(context.get(), ggml_mul_mat(context.get(), weights, input), n_threads);
}

// Tokens that each go to some experts: [columns, slots or 1, tokens].
std::vector<float> multiply_experts(const Weights & w, const std::vector<int32_t> & ids, int64_t slots,
                                    const float * x, int64_t rows_per_token, int n_threads) {
    const Context context = new_context();
    const int64_t tokens = static_cast<int64_t>(ids.size()) / slots;
    ggml_tensor * weights = ggml_new_tensor_3d(context.get(), w.type, w.columns, w.rows, kExperts);
    ggml_tensor * input = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, w.columns, rows_per_token, tokens);
    ggml_tensor * chosen = ggml_new_tensor_2d(context.get(), GGML_TYPE_I32, slots, tokens);
    std::memcpy(weights->data, w.quantized.data(), ggml_nbytes(weights));
    std::memcpy(input->data, x, ggml_nbytes(input));
    std::memcpy(chosen->data, ids.data(), ggml_nbytes(chosen));
    return compute(context.get(), ggml_mul_mat_id(context.get(), weights, input, chosen), n_threads);
}

void check_values(const Weights & w, int64_t expert, const float * x, const float * got) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < w.rows; i++) {
        double sum = 0;
        for (int64_t k = 0; k < w.columns; k++) {
            sum += static_cast<double>(w.decoded[(expert * w.rows + i) * w.columns + k]) * x[k];
        }
        error += (got[i] - sum) * (got[i] - sum);
        size += sum * sum;
    }
    check(std::sqrt(error / size) < 0.02, w.type, 1, 1,
          "far from the decoded weights"); // 8 bits: about 0.005
}

void check_planes(const Weights & w, std::mt19937 & random) {
    const int64_t rows = 3, planes = 2;
    const std::vector<float> x = random_floats(w.columns * rows * planes, random);
    const std::vector<float> all = multiply(w, 1, x.data(), rows, planes, 3);
    for (int64_t row = 0; row < rows * planes; row++) {
        const std::vector<float> one = multiply(w, 1, &x[row * w.columns], 1, 1, 1);
        check(std::memcmp(one.data(), &all[row * w.rows], one.size() * sizeof(float)) == 0, w.type, rows, 3,
              "a row of a plane differs from itself alone");
        check_values(w, 1, &x[row * w.columns], one.data());
    }
}

void check_experts(const Weights & w, int64_t tokens, int64_t slots, bool row_per_slot, int n_threads,
                   std::mt19937 & random) {
    std::vector<int32_t> ids;
    for (int64_t token = 0; token < tokens; token++) {
        std::vector<int32_t> experts = {0, 1, 2, 3, 4};
        std::shuffle(experts.begin(), experts.end() - (token % 3 != 0),
                     random); // the last one has few tokens
        ids.insert(ids.end(), experts.begin(), experts.begin() + slots);
    }
    const int64_t rows_per_token = row_per_slot ? slots : 1;
    const std::vector<float> x = random_floats(w.columns * rows_per_token * tokens, random);
    const std::vector<float> all = multiply_experts(w, ids, slots, x.data(), rows_per_token, n_threads);
    for (int64_t i = 0; i < static_cast<int64_t>(ids.size()); i++) {
        const float * row = &x[(row_per_slot ? i : i / slots) * w.columns];
        const std::vector<float> one = multiply(w, ids[i], row, 1, 1, 1);
        check(std::memcmp(one.data(), &all[i * w.rows], one.size() * sizeof(float)) == 0, w.type, tokens,
              n_threads, "an expert's row differs from a matrix product");
    }
}

} // namespace

int main() {
    ggml_cpu_init();
    std::mt19937 random(1);
    for (int t = 0; t < GGML_TYPE_COUNT; t++) {
        const ggml_type type = static_cast<ggml_type>(t);
        if (!slipstream_kernels_serve(type)) {
            continue;
        }
        const Weights w(type, ggml_blck_size(type) == 256 ? 512 : 288, 35, random);
        check_planes(w, random);
        check_experts(w, 1, 2, false, 1, random);
        check_experts(w, 1, 2, true, 3, random);
        check_experts(w, 9, 2, true, 2, random);
        check_experts(w, 170, 2, false, 3, random); // more rows of an expert than are multiplied at once
        check_experts(w, 20, 1, true, 1, random);
    }
    std::printf("%s\n", slipstream_kernels_isa() == nullptr ? "none" : slipstream_kernels_isa());
    return std::min(n_failures, 100);
}
