// One matrix product through ggml, once to warm up and once for callgrind to count. One thread.
// usage: count_instructions TYPE COLUMNS WEIGHT_ROWS ROWS plain|repack|packed       (SLIPSTREAM_KERNELS=off for upstream's)
#include <valgrind/callgrind.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml-cpu/repack.h"
#include "ggml.h"
#include "kernels/seam.h"

namespace {

ggml_type type_named(const char * name) {
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char * known = ggml_type_name(static_cast<ggml_type>(type));
        if (known != nullptr && std::strcmp(known, name) == 0) {
            return static_cast<ggml_type>(type);
        }
    }
    std::fprintf(stderr, "no such type: %s\n", name);
    std::exit(2);
}

ggml_context * new_context() {
    return ggml_init({ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true});
}

} // namespace

int main(int argc, char ** argv) {
    if (argc != 6) {
        std::fprintf(stderr, "usage: count_instructions TYPE COLUMNS WEIGHT_ROWS ROWS plain|repack|packed\n");
        return 2;
    }
    const ggml_type type = type_named(argv[1]);
    const int64_t columns = std::atoll(argv[2]), n_weights = std::atoll(argv[3]), rows = std::atoll(argv[4]);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> values(columns * (n_weights > rows ? n_weights : rows));
    for (float & v : values) {
        v = normal(random);
    }
    std::vector<uint8_t> quantized(ggml_row_size(type, columns) * n_weights);
    ggml_quantize_chunk(type, values.data(), quantized.data(), 0, n_weights, columns, nullptr);

    ggml_backend_t backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, 1);
    ggml_context * weight_context = new_context();
    ggml_tensor * weights = ggml_new_tensor_2d(weight_context, type, columns, n_weights);
    ggml_backend_alloc_ctx_tensors_from_buft(weight_context, std::strcmp(argv[5], "repack") == 0
                                                                 ? ggml_backend_cpu_repack_buffer_type()
                                                                 : ggml_backend_cpu_buffer_type());
    ggml_backend_tensor_set(weights, quantized.data(), 0, quantized.size());
    std::vector<char> packed(slipstream_packed_size(weights) + 64);
    if (std::strcmp(argv[5], "packed") == 0) { // as a model's weights are once they were copied
        void * at = packed.data() + 64 - reinterpret_cast<uintptr_t>(packed.data()) % 64;
        slipstream_pack(weights, at, 0, 1);
        slipstream_use_packed(weights, at);
    }

    ggml_context * context = new_context();
    ggml_tensor * x = ggml_new_tensor_2d(context, GGML_TYPE_F32, columns, rows);
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, ggml_mul_mat(context, weights, x));
    ggml_backend_alloc_ctx_tensors(context, backend);
    ggml_backend_tensor_set(x, values.data(), 0, ggml_nbytes(x));

    ggml_backend_graph_compute(backend, graph);
    CALLGRIND_TOGGLE_COLLECT;
    ggml_backend_graph_compute(backend, graph);
    CALLGRIND_TOGGLE_COLLECT;
    std::printf("done\n");
}
