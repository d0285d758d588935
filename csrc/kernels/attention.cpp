#include "attention.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // false alarms inside the AVX-512 intrinsics of GCC 12
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "cell_order.h"
#include "ggml-cpu-impl.h"
#include "simd_float.h"
#include "transpose.h"
#include "visible.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

namespace {

constexpr int kLanes = kPanelRows;
constexpr int kBlock = 64;                              // cells worked on at a time
constexpr int kQueries = kMostRows;                     // queries that share a block
constexpr int kTile = 6;                                // queries whose sums are held in registers,
constexpr int kWidth = SLIPSTREAM_KERNELS_VNNI ? 4 : 2; // in so many vectors each
constexpr int64_t kManyRows = 64; // from here on speed comes before bits where a window slides
constexpr float kNone = -std::numeric_limits<float>::infinity();

// e to the power of numbers up to 0: 0 below -87, at most 2 units in the last place off above. Not a number stays so.
// Constants: Cephes, expf.
FloatVector exp_of(FloatVector x) {
    const FloatVector limit = broadcast_f(-87.0f);
    const FloatVector bound = larger(limit, x);
    const FloatVector shift =
        broadcast_f(12582912.0f); // 1.5 * 2^23: the sum's low bits are the nearest integer
    const FloatVector shifted = multiply_add(bound, broadcast_f(1.44269504f), shift);
    const FloatVector n = add(shifted, negated(shift));
    FloatVector r = multiply_add(n, broadcast_f(-0.693359375f), bound);
    r = multiply_add(n, broadcast_f(2.12194440e-4f), r);
    FloatVector p = broadcast_f(1.9875691500e-4f);
    for (const float c :
         {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
        p = multiply_add(p, r, broadcast_f(c));
    }
    p = add(multiply_add(multiply(p, r), r, r), broadcast_f(1.0f));
    return where_less(x, limit, zero_f(), add(scale_by_power(p, shifted), multiply(x, zero_f())));
}

// What a thread keeps while it works on an operation.
struct Scratch {
    Visible visible;
    int64_t listed = -1; // the group of rows `visible` is of
    std::vector<float> floats;

    float *queries, *keys, *values, *scores, *sums; // into `floats`
    float peak[kQueries], total[kQueries], factor[kQueries];

    void prepare(int64_t key_size, int64_t value_size) {
        const size_t n =
            static_cast<size_t>((kQueries + kBlock) * (key_size + value_size) + kQueries * kBlock);
        listed = -1;
        if (floats.size() < n + 16) {
            floats.resize(n + 16);
        }
        queries =
            reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(floats.data()) + 63) & ~uintptr_t{63});
        keys = queries + kQueries * key_size;
        values = keys + kBlock * key_size;
        sums = values + kBlock * value_size;
        scores = sums + kQueries * value_size;
    }
};

struct Operation {
    const ggml_tensor *q, *k, *v, *mask, *sinks;
    ggml_tensor * dst;
    float scale, softcap;
    int64_t key_size, value_size, n_rows, n_cells;
    int64_t heads; // of a key-value head
    int64_t part;  // of these, how many an item has
    int64_t rows;  // of an item
    int64_t n_groups, n_parts, n_items;
    int64_t n_kv_heads;
    bool windows;
    std::shared_ptr<const CellOrder> order;

    Operation(ggml_tensor * tensor, int n_threads) : dst(tensor) {
        q = dst->src[0], k = dst->src[1], v = dst->src[2], mask = dst->src[3], sinks = dst->src[4];
        std::memcpy(&scale, dst->op_params, sizeof(float));
        std::memcpy(&softcap, reinterpret_cast<const float *>(dst->op_params) + 2, sizeof(float));
        if (softcap != 0.0f) {
            scale /= softcap;
        }
        key_size = k->ne[0], value_size = v->ne[0], n_rows = q->ne[1], n_cells = k->ne[1];
        n_kv_heads = k->ne[2];
        heads = q->ne[2] / n_kv_heads;
        windows = n_rows >= kManyRows;
        order = CellOrder::of(k->data);
        part = std::min<int64_t>(heads, kQueries);
        rows = std::min<int64_t>(n_rows, kQueries / part);
        const int64_t planes = n_kv_heads * q->ne[3];
        while (rows > 1 && (n_rows + rows - 1) / rows * planes < n_threads) {
            rows = (rows + 1) / 2;
        }
        n_groups = (n_rows + rows - 1) / rows;
        const int64_t n = n_groups * planes;
        if (n < 4 * n_threads && n % n_threads != 0) {
            part = 1; // reads keys once for each head, but no thread waits for the others for long
        }
        n_parts = (heads + part - 1) / part;
        n_items = n * n_parts;
    }
};

template <typename T>
T * at(const ggml_tensor * t, int64_t i1, int64_t i2, int64_t i3) {
    return reinterpret_cast<T *>(static_cast<char *>(t->data) + i1 * t->nb[1] + i2 * t->nb[2] +
                                 i3 * t->nb[3]);
}

// Scores of queries and a block's cells.
template <int n>
void score(const float * queries, const float * keys, int64_t size, float * scores) {
    for (int first = 0; first < kBlock; first += kWidth * kLanes) {
        FloatVector sums[n][kWidth];
        for (auto & row : sums) {
            for (FloatVector & sum : row) {
                sum = zero_f();
            }
        }
        for (int64_t i = 0; i < size; i++) {
            FloatVector key[kWidth];
            for (int w = 0; w < kWidth; w++) {
                key[w] = load_f(keys + i * kBlock + first + w * kLanes);
            }
#pragma GCC unroll 6
            for (int r = 0; r < n; r++) {
                const FloatVector query = broadcast_f(queries[r * size + i]);
#pragma GCC unroll 4
                for (int w = 0; w < kWidth; w++) {
                    sums[r][w] = multiply_add(query, key[w], sums[r][w]);
                }
            }
        }
        for (int r = 0; r < n; r++) {
            for (int w = 0; w < kWidth; w++) {
                store_f(scores + r * kBlock + first + w * kLanes, sums[r][w]);
            }
        }
    }
}

// The values of a block: f32 in a row, or one query only as they lie in the cache.
struct Decoded {
    const float * values;
    int64_t size;

    FloatVector load(int cell, int64_t d) const { return load_f(values + cell * size + d); }
};
struct Cached {
    const char * values;
    size_t stride;
    const int32_t * cells;

    FloatVector load(int cell, int64_t d) const {
        return load_half(reinterpret_cast<const uint16_t *>(values + cells[cell] * stride) + d);
    }
};

// sums = factor * sums + the block's values, weighted, cell after cell; of the numbers from `d` on.
template <int n, int width, typename Values>
void gather(const float * weights, const Values & values, int64_t d, int64_t size, int first, int last,
            const float * factor, float * sums) {
    FloatVector acc[n][width];
    for (int r = 0; r < n; r++) {
        for (int w = 0; w < width; w++) {
            acc[r][w] = multiply(load_f(sums + r * size + d + w * kLanes), broadcast_f(factor[r]));
        }
    }
    for (int cell = first; cell < last; cell++) {
        FloatVector value[width];
        for (int w = 0; w < width; w++) {
            value[w] = values.load(cell, d + w * kLanes);
        }
#pragma GCC unroll 6
        for (int r = 0; r < n; r++) {
            const FloatVector weight = broadcast_f(weights[r * kBlock + cell]);
#pragma GCC unroll 4
            for (int w = 0; w < width; w++) {
                acc[r][w] = multiply_add(weight, value[w], acc[r][w]);
            }
        }
    }
    for (int r = 0; r < n; r++) {
        for (int w = 0; w < width; w++) {
            store_f(sums + r * size + d + w * kLanes, acc[r][w]);
        }
    }
}

// Which cells of a block a query sees.
struct Limits {
    int first, last;
};

template <int n, typename Values>
void gather_all(const float * weights, const Values & values, int64_t size, const Limits * limits,
                const float * factor, float * sums) {
    int first = kBlock, last = 0;
    for (int r = 0; r < n; r++) {
        first = std::min(first, limits[r].first);
        last = std::max(last, limits[r].last);
    }
    int64_t d = 0;
    for (; d + kWidth * kLanes <= size; d += kWidth * kLanes) {
        gather<n, kWidth>(weights, values, d, size, first, last, factor, sums);
    }
    for (; d < size; d += kLanes) {
        gather<n, 1>(weights, values, d, size, first, last, factor, sums);
    }
}

// Calls `tile` with the first query and the number of queries, a constant, of each tile of [begin, end).
template <typename Tile>
void in_tiles(int begin, int end, Tile tile) {
    for (int r = begin; r < end; r += kTile) {
        switch (std::min(kTile, end - r)) {
        case 1:
            tile(r, std::integral_constant<int, 1>{});
            break;
        case 2:
            tile(r, std::integral_constant<int, 2>{});
            break;
        case 3:
            tile(r, std::integral_constant<int, 3>{});
            break;
        case 4:
            tile(r, std::integral_constant<int, 4>{});
            break;
        case 5:
            tile(r, std::integral_constant<int, 5>{});
            break;
        default:
            tile(r, std::integral_constant<int, kTile>{});
        }
    }
}

// Turns one query's scores of a block into weights and notes by what its sums so far are to be multiplied.
void weigh(float * scores, Limits limits, float & peak, float & total, float & factor) {
    if (limits.first >= limits.last) {
        std::fill(scores, scores + kBlock, 0.0f);
        factor = 1.0f;
        return;
    }
    std::fill(scores, scores + limits.first, kNone);
    std::fill(scores + limits.last, scores + kBlock, kNone);
    FloatVector most = broadcast_f(kNone);
    for (int i = 0; i < kBlock; i += kLanes) {
        most = larger(load_f(scores + i), most);
    }
    float lanes[kLanes];
    store_f(lanes, most);
    const float before = peak;
    peak = std::max(peak, *std::max_element(lanes, lanes + kLanes));
    factor = before == peak ? 1.0f : std::exp(before - peak);
    const FloatVector offset = broadcast_f(-peak);
    FloatVector sum = zero_f();
    for (int i = 0; i < kBlock; i += kLanes) {
        const FloatVector weight = exp_of(add(load_f(scores + i), offset));
        store_f(scores + i, weight);
        sum = add(sum, weight);
    }
    store_f(lanes, sum);
    for (int n = kLanes / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) {
            lanes[i] += lanes[i + n];
        }
    }
    total = total * factor + lanes[0];
}

// Asks for the memory of some cells, which is then read beside other work.
void bring(const char * data, size_t stride, const int32_t * cells, int n, int64_t size) {
    for (int i = 0; i < n; i++) {
        for (int64_t byte = 0; byte < 2 * size; byte += 64) {
            _mm_prefetch(data + cells[i] * stride + byte, _MM_HINT_T0);
        }
    }
}

// One run of rows, some heads of one key-value head.
void attend_run(const Operation & op, Scratch & s, const Run & run, int64_t row, int64_t kv_head,
                int64_t head, int n_heads, int64_t plane) {
    const int n = run.n * n_heads;
    const int64_t k_plane = plane / (op.q->ne[3] / op.k->ne[3]),
                  v_plane = plane / (op.q->ne[3] / op.v->ne[3]);
    for (int i = 0; i < n; i++) {
        const float * from = at<float>(op.q, row + i / n_heads, head + i % n_heads, plane);
        float * to = s.queries + i * op.key_size;
        for (int64_t d = 0; d < op.key_size; d += kLanes) {
            store_f(to + d, multiply(load_f(from + d), broadcast_f(op.scale)));
        }
        s.peak[i] = kNone, s.total[i] = 0.0f;
    }
    std::fill(s.sums, s.sums + n * op.value_size, 0.0f);
    const char *k = at<char>(op.k, 0, kv_head, k_plane), *v = at<char>(op.v, 0, kv_head, v_plane);
    const int32_t * cells = s.visible.cells.data() + run.cells;
    const int32_t n_cells = run.end[run.n - 1];
    for (int32_t first = run.start[0] / kBlock * kBlock; first < n_cells; first += kBlock) {
        const int n_block = std::min(kBlock, n_cells - first);
        Limits limits[kQueries];
        int begin = n, end = 0;
        for (int i = 0; i < n; i++) {
            limits[i].first = std::max(0, run.start[i / n_heads] - first);
            limits[i].last = std::min(n_block, run.end[i / n_heads] - first);
            if (limits[i].first < limits[i].last) {
                begin = std::min(begin, i);
                end = i + 1;
            }
        }
        const Cached values{v, op.v->nb[1], cells + first};
        bring(v, op.v->nb[1], cells + first, n_block, op.value_size);
        bring(k, op.k->nb[1], cells + first + n_block, std::min(kBlock, n_cells - first - n_block),
              op.key_size);
        transpose_keys(k, op.k->nb[1], cells + first, n_block, op.key_size, s.keys);
        in_tiles(begin, end, [&](int r, auto tile) {
            score<decltype(tile)::value>(s.queries + r * op.key_size, s.keys, op.key_size,
                                         s.scores + r * kBlock);
        });
        for (int i = begin; i < end; i++) {
            float * scores = s.scores + i * kBlock;
            if (op.softcap != 0.0f) {
                std::transform(scores, scores + kBlock, scores,
                               [&](float x) { return op.softcap * std::tanh(x); });
            }
            if (run.biased) {
                const uint16_t * mask = at<uint16_t>(op.mask, row, 0, plane % op.mask->ne[3]);
                for (int c = 0; c < n_block; c++) {
                    scores[c] += ggml_fp16_to_fp32(mask[cells[first + c]]);
                }
            }
            weigh(scores, limits[i], s.peak[i], s.total[i], s.factor[i]);
        }
        if (end - begin == 1) {
            gather_all<1>(s.scores + begin * kBlock, values, op.value_size, limits + begin, s.factor + begin,
                          s.sums + begin * op.value_size);
            continue;
        }
        for (int c = 0; c < n_block; c++) {
            for (int64_t d = 0; d < op.value_size; d += kLanes) {
                store_f(s.values + c * op.value_size + d, values.load(c, d));
            }
        }
        const Decoded decoded{s.values, op.value_size};
        in_tiles(begin, end, [&](int r, auto tile) {
            gather_all<decltype(tile)::value>(s.scores + r * kBlock, decoded, op.value_size, limits + r,
                                              s.factor + r, s.sums + r * op.value_size);
        });
    }
    for (int i = 0; i < n; i++) {
        const int64_t h = head + i % n_heads;
        float factor = 1.0f, total = s.total[i];
        if (op.sinks != nullptr) {
            const float sink = static_cast<const float *>(op.sinks->data)[h];
            const float peak = std::max(s.peak[i], sink);
            factor = std::exp(s.peak[i] - peak);
            total = total * factor + std::exp(sink - peak);
        }
        const FloatVector share = broadcast_f(total == 0.0f ? 0.0f : factor / total);
        float * to = at<float>(op.dst, h, row + i / n_heads, plane);
        for (int64_t d = 0; d < op.value_size; d += kLanes) {
            store_f(to + d, multiply(load_f(s.sums + i * op.value_size + d), share));
        }
    }
}

// Items are numbered so that those of one group of rows, which share its lists, follow each other.
void attend_item(const Operation & op, Scratch & s, int64_t item) {
    const int64_t part = item % op.n_parts, kv_head = item / op.n_parts % op.n_kv_heads;
    const int64_t group = item / op.n_parts / op.n_kv_heads;
    const int64_t plane = group / op.n_groups, row = group % op.n_groups * op.rows;
    if (s.listed != group) {
        const char * mask =
            op.mask == nullptr ? nullptr : at<const char>(op.mask, row, 0, plane % op.mask->ne[3]);
        const int n = static_cast<int>(std::min(op.rows, op.n_rows - row));
        const int64_t k_plane = plane / (op.q->ne[3] / op.k->ne[3]);
        const int64_t first_row = k_plane * static_cast<int64_t>(op.k->nb[3] / op.k->nb[1]);
        const bool has_order = op.order != nullptr && first_row + op.n_cells <= op.order->n_rows();
        s.visible.list(mask, op.mask == nullptr ? 0 : op.mask->nb[1], n, op.n_cells, op.windows,
                       has_order ? op.order.get() : nullptr, first_row);
        s.listed = group;
    }
    const int64_t head = part * op.part;
    const int n_heads = static_cast<int>(std::min(op.part, op.heads - head));
    for (const Run & run : s.visible.runs) {
        attend_run(op, s, run, row + run.first, kv_head, kv_head * op.heads + head, n_heads, plane);
    }
}

} // namespace

bool attends(const ggml_tensor * dst) {
    const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2], *mask = dst->src[3];
    float max_bias;
    std::memcpy(&max_bias, reinterpret_cast<const float *>(dst->op_params) + 1, sizeof(float));
    return q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 &&
           q->nb[0] == sizeof(float) && k->nb[0] == 2 && v->nb[0] == 2 && k->ne[0] % 16 == 0 &&
           v->ne[0] % 16 == 0 && k->ne[2] == v->ne[2] && max_bias == 0.0f &&
           (mask == nullptr || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1));
}

void attend(const ggml_compute_params * params, ggml_tensor * dst) {
    static thread_local Scratch scratch;
    const Operation op(dst, params->nth);
    scratch.prepare(op.key_size, op.value_size);
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool,
                                  params->nth); // the first items are the threads' numbers
    }
    ggml_barrier(params->threadpool);
    for (int64_t item = params->ith; item < op.n_items;
         item = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        attend_item(op, scratch, item);
    }
}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels

#else

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

bool attends(const ggml_tensor *) {
    return false;
}
void attend(const ggml_compute_params *, ggml_tensor *) {}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels

#endif
