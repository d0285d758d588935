// Times one attention operation of ggml on one thread, by that thread's own clock. Compiled and run by bench_attention.py,
// which sets SLIPSTREAM_KERNELS for the arm. Every row sees the last `seen` cells up to its own.
// usage: attention_time HEAD_SIZE KV_HEADS GROUP CELLS SEEN ROWS REPETITIONS, or attention_time peak
#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ggml-cpu.h"
#include "ggml.h"

namespace {

double thread_ms() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e3 * double(t.tv_sec) + 1e-6 * double(t.tv_nsec);
}

// f32 multiply-adds in registers count as two operations each: what nothing can exceed.
double peak_gflops() {
#if defined(__AVX512F__)
    using Vector = __m512;
    constexpr int lanes = 16;
#else
    using Vector = __m256;
    constexpr int lanes = 8;
#endif
    constexpr int steps = 1'000'000;
    double best = 1e30;
    Vector a = {}, b = {}, s0 = {}, s1 = {}, s2 = {}, s3 = {}, s4 = {}, s5 = {}, s6 = {}, s7 = {}, s8 = {},
           s9 = {};
    const auto add = [&](Vector & sum) {
        __asm__ volatile("vfmadd231ps %1, %2, %0" : "+v"(sum) : "v"(a), "v"(b));
    };
    for (int run = 0; run < 5; run++) {
        const double begin = thread_ms();
        for (int i = 0; i < steps; i++) {
            add(s0), add(s1), add(s2), add(s3), add(s4), add(s5), add(s6), add(s7), add(s8), add(s9);
        }
        best = std::min(best, thread_ms() - begin);
    }
    return steps * 10.0 * lanes * 2 / best * 1e-6;
}

} // namespace

int main(int argc, char ** argv) {
    if (argc == 2 && std::strcmp(argv[1], "peak") == 0) {
        std::printf("%.3f\n", peak_gflops());
        return 0;
    }
    if (argc != 8) {
        return 2;
    }
    int n[7];
    std::transform(argv + 1, argv + 8, n, [](const char * text) { return std::atoi(text); });
    const auto [size, kv_heads, group, cells, seen, rows, repetitions] = n;
    ggml_context * c = ggml_init({size_t{1} << 30, nullptr, false});
    ggml_tensor * q = ggml_new_tensor_3d(c, GGML_TYPE_F32, size, rows, kv_heads * group);
    ggml_tensor * k = ggml_new_tensor_3d(c, GGML_TYPE_F16, size, kv_heads, cells);
    ggml_tensor * v = ggml_new_tensor_3d(c, GGML_TYPE_F16, size, kv_heads, cells);
    ggml_tensor * mask = ggml_new_tensor_2d(c, GGML_TYPE_F16, cells, rows);
    for (int64_t i = 0; i < ggml_nelements(q); i++) {
        static_cast<float *>(q->data)[i] = std::sin(float(i));
    }
    for (int64_t i = 0; i < ggml_nelements(k); i++) {
        static_cast<ggml_fp16_t *>(k->data)[i] = ggml_fp32_to_fp16(std::sin(0.7f * float(i)));
        static_cast<ggml_fp16_t *>(v->data)[i] = ggml_fp32_to_fp16(std::sin(0.3f * float(i)));
    }
    for (int row = 0; row < rows; row++) {
        const int end = cells - rows + row + 1;
        for (int cell = 0; cell < cells; cell++) {
            const bool is_seen = cell < end && cell >= end - seen;
            static_cast<ggml_fp16_t *>(mask->data)[row * cells + cell] = is_seen ? 0 : 0xfc00;
        }
    }
    ggml_tensor * out =
        ggml_flash_attn_ext(c, q, ggml_permute(c, k, 0, 2, 1, 3), ggml_permute(c, v, 0, 2, 1, 3), mask,
                            1.0f / std::sqrt(float(size)), 0.0f, 0.0f);
    ggml_cgraph * graph = ggml_new_graph(c);
    ggml_build_forward_expand(graph, out);
    ggml_cplan plan = ggml_graph_plan(graph, 1, nullptr);
    std::vector<uint8_t> work(plan.work_size + 64);
    plan.work_data = work.data();
    ggml_graph_compute(graph, &plan);
    std::vector<double> times(size_t(std::max(1, repetitions)));
    for (double & time : times) {
        const double begin = thread_ms();
        ggml_graph_compute(graph, &plan);
        time = thread_ms() - begin;
    }
    std::printf("%.6f\n", *std::min_element(times.begin(), times.end()));
    ggml_free(c);
    return 0;
}
