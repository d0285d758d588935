// Checks attention as ggml asks for it, through the seam: shapes, masks, threads.
// Bits of a row must not depend on its company, on the threads or on where its cells lie, and values must be near those
// of a double-precision reference. Exits with the number of failures.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "ggml-cpu.h"
#include "ggml.h"
#include "kernels/seam.h"

namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();
int n_failures = 0;
long n_checks = 0;

struct Shape {
    int key_size, value_size, kv_heads, group, cells, rows, planes = 1;
    bool masked = true, sinks = false;
    float softcap = 0.0f;

    int heads() const { return kv_heads * group; }
};

void check(bool ok, const Shape & s, int n_threads, const char * what) {
    n_checks++;
    if (!ok) {
        n_failures++;
        std::fprintf(
            stderr, "%s: keys of %d, values of %d, %d x %d heads, %d cells, %d rows, %d planes, %d threads\n",
            what, s.key_size, s.value_size, s.kv_heads, s.group, s.cells, s.rows, s.planes, n_threads);
    }
}

struct Input {
    Shape shape;
    std::vector<float> q;                // [plane][head][row][key_size]
    std::vector<ggml_fp16_t> k, v, mask; // [plane][cell][kv head][…], [plane][row][cell]
    std::vector<float> sinks;

    Input(const Shape & s, std::mt19937 & random) : shape(s) {
        std::normal_distribution<float> normal;
        const auto fill = [&](auto & values, size_t n, float size) {
            values.resize(n);
            for (auto & value : values) {
                if constexpr (sizeof(value) == 2) {
                    value = ggml_fp32_to_fp16(size * normal(random));
                } else {
                    value = size * normal(random);
                }
            }
        };
        const size_t cells = size_t(s.planes) * s.cells * s.kv_heads;
        fill(q, size_t(s.planes) * s.heads() * s.rows * s.key_size, 1.5f);
        fill(k, cells * s.key_size, 1.5f);
        fill(v, cells * s.value_size, 1.0f);
        fill(sinks, s.heads(), 2.0f);
        mask.assign(size_t(s.planes) * s.rows * s.cells, 0);
    }

    ggml_fp16_t & shown(int plane, int row, int cell) {
        return mask[(size_t(plane) * shape.rows + row) * shape.cells + cell];
    }
};

// Of the rows [first, first + n): [plane][row][head][value_size].
std::vector<float> attend(const Input & in, int first, int n, int n_threads) {
    const Shape & s = in.shape;
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> context{
        ggml_init({size_t{48} << 20, nullptr, false}), ggml_free};
    ggml_context * c = context.get();
    ggml_tensor * q = ggml_new_tensor_4d(c, GGML_TYPE_F32, s.key_size, n, s.heads(), s.planes);
    for (int i = 0; i < s.planes * s.heads(); i++) {
        std::memcpy(static_cast<float *>(q->data) + size_t(i) * n * s.key_size,
                    &in.q[(size_t(i) * s.rows + first) * s.key_size], sizeof(float) * n * s.key_size);
    }
    const auto cached = [&](const std::vector<ggml_fp16_t> & values, int size) {
        ggml_tensor * t = ggml_new_tensor_4d(c, GGML_TYPE_F16, size, s.kv_heads, s.cells, s.planes);
        std::memcpy(t->data, values.data(), values.size() * sizeof(ggml_fp16_t));
        return ggml_permute(c, t, 0, 2, 1, 3);
    };
    ggml_tensor * mask = nullptr;
    if (s.masked) {
        mask = ggml_new_tensor_4d(c, GGML_TYPE_F16, s.cells, n, 1, s.planes);
        for (int plane = 0; plane < s.planes; plane++) {
            std::memcpy(static_cast<ggml_fp16_t *>(mask->data) + size_t(plane) * n * s.cells,
                        &in.mask[(size_t(plane) * s.rows + first) * s.cells],
                        sizeof(ggml_fp16_t) * n * s.cells);
        }
    }
    ggml_tensor * out = ggml_flash_attn_ext(c, q, cached(in.k, s.key_size), cached(in.v, s.value_size), mask,
                                            1.0f / std::sqrt(float(s.key_size)), 0.0f, s.softcap);
    if (s.sinks) {
        ggml_tensor * sinks = ggml_new_tensor_1d(c, GGML_TYPE_F32, s.heads());
        std::memcpy(sinks->data, in.sinks.data(), sizeof(float) * in.sinks.size());
        ggml_flash_attn_ext_add_sinks(out, sinks);
    }
    ggml_cgraph * graph = ggml_new_graph(c);
    ggml_build_forward_expand(graph, out);
    ggml_graph_compute_with_ctx(c, graph, n_threads);
    const float * data = static_cast<const float *>(out->data);
    return {data, data + ggml_nelements(out)};
}

std::vector<float> decoded(const std::vector<ggml_fp16_t> & values) {
    std::vector<float> floats(values.size());
    ggml_fp16_to_fp32_row(values.data(), floats.data(), static_cast<int64_t>(values.size()));
    return floats;
}

double largest_error(Input & in, const std::vector<float> & got) {
    const Shape & s = in.shape;
    const std::vector<float> keys = decoded(in.k), values = decoded(in.v), biases = decoded(in.mask);
    double worst = 0.0;
    std::vector<double> weights(s.cells);
    for (int i = 0; i < s.planes * s.rows * s.heads(); i++) {
        const int head = i % s.heads(), row = i / s.heads() % s.rows, plane = i / s.heads() / s.rows;
        const float * q = &in.q[((size_t(plane) * s.heads() + head) * s.rows + row) * s.key_size];
        const auto cell_at = [&](const std::vector<float> & floats, int cell, int size) {
            return &floats[((size_t(plane) * s.cells + cell) * s.kv_heads + head / s.group) * size];
        };
        double peak = s.sinks ? in.sinks[head] : kHidden;
        for (int cell = 0; cell < s.cells; cell++) {
            const double bias = s.masked ? biases[(size_t(plane) * s.rows + row) * s.cells + cell] : 0.0;
            weights[cell] = kHidden;
            if (bias != kHidden) {
                const float * k = cell_at(keys, cell, s.key_size);
                double score = 0.0;
                for (int d = 0; d < s.key_size; d++) {
                    score += double(q[d]) * k[d];
                }
                score /= std::sqrt(double(s.key_size));
                weights[cell] = (s.softcap != 0.0f ? s.softcap * std::tanh(score / s.softcap) : score) + bias;
                peak = std::max(peak, weights[cell]);
            }
        }
        double total = s.sinks ? std::exp(in.sinks[head] - peak) : 0.0;
        std::vector<double> sums(s.value_size);
        for (int cell = 0; cell < s.cells; cell++) {
            if (weights[cell] != kHidden) {
                const double weight = std::exp(weights[cell] - peak);
                const float * v = cell_at(values, cell, s.value_size);
                total += weight;
                for (int d = 0; d < s.value_size; d++) {
                    sums[d] += weight * v[d];
                }
            }
        }
        for (int d = 0; d < s.value_size; d++) {
            const double error = got[size_t(i) * s.value_size + d] - (total > 0.0 ? sums[d] / total : 0.0);
            worst = std::max(worst, std::isfinite(error) ? std::fabs(error) : 1e9);
        }
    }
    return worst;
}

std::vector<float> rows_of(const Shape & s, const std::vector<float> & all, int first, int n) {
    const size_t size = size_t(s.heads()) * s.value_size;
    std::vector<float> some;
    for (int plane = 0; plane < s.planes; plane++) {
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>((size_t(plane) * s.rows + first) * size);
        some.insert(some.end(), begin, begin + static_cast<std::ptrdiff_t>(n * size));
    }
    return some;
}

bool same(const std::vector<float> & a, const std::vector<float> & b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Rows as an engine batches them: some alone at the end of sequences of their own, the others one prompt's, in cells of
// everybody's mixed. A window hides all but so many cells before a row.
void show(Input & in, int n_alone, int window, std::mt19937 & random) {
    const Shape & s = in.shape;
    std::fill(in.mask.begin(), in.mask.end(), ggml_fp32_to_fp16(kHidden));
    for (int plane = 0; plane < s.planes; plane++) {
        std::vector<int> owner(s.cells);
        for (int & o : owner) {
            o = static_cast<int>(random() % static_cast<unsigned>(n_alone + 2)); // the last owner is nobody
        }
        for (int row = 0; row < s.rows; row++) {
            const int sequence = std::min(row, n_alone);
            std::vector<int> seen;
            for (int cell = 0; cell < s.cells; cell++) {
                if (owner[cell] == sequence) {
                    seen.push_back(cell);
                }
            }
            const int later = sequence == n_alone ? s.rows - 1 - row : 0; // cells of the rows behind it
            seen.resize(std::max<int>(0, static_cast<int>(seen.size()) - later));
            for (size_t i = window > 0 && seen.size() > size_t(window) ? seen.size() - window : 0;
                 i < seen.size(); i++) {
                in.shown(plane, row, seen[i]) = 0;
            }
        }
    }
}

void compare(Input & in, bool bits, const std::vector<int> & threads) {
    const Shape & s = in.shape;
    const std::vector<float> all = attend(in, 0, s.rows, 1);
    // Rounding of f32 sums; the values are about 1.
    check(largest_error(in, all) < 3e-5, s, 1, "far from the reference");
    for (const int n : threads) {
        check(same(all, attend(in, 0, s.rows, n)), s, n, "other bits with more threads");
    }
    for (int first = 0; bits && first < s.rows;) {
        const int n = std::min(s.rows - first, 1 + first % 5);
        check(same(rows_of(s, all, first, n), attend(in, first, n, 2)), s, 2, "other bits in other company");
        first += n;
    }
}

void check_shapes(std::mt19937 & random) {
    const std::vector<Shape> shapes = {
        {64, 64, 2, 7, 500, 1},    {64, 64, 3, 3, 333, 9},    {64, 64, 2, 7, 700, 40},
        {128, 128, 2, 6, 256, 17}, {16, 16, 1, 1, 70, 5},     {80, 96, 4, 1, 200, 33},
        {256, 256, 1, 4, 600, 12}, {64, 64, 1, 71, 130, 3},   {192, 128, 2, 2, 300, 100},
        {64, 64, 2, 4, 300, 6, 2}, {576, 512, 1, 16, 150, 4}, {32, 32, 5, 2, 1, 1},
    };
    for (Shape shape : shapes) {
        for (int way = 0; way < 4; way++) {
            shape.sinks = way == 1;
            shape.softcap = way == 2 ? 20.0f : 0.0f;
            shape.masked = way != 3;
            Input in(shape, random);
            for (const int n_alone : way == 0 ? std::vector<int>{0, 3, shape.rows} : std::vector<int>{3}) {
                show(in, n_alone, 0, random);
                compare(in, true, {2, 3});
                show(in, n_alone, 40, random);
                compare(in, shape.rows < 64, {2, 3});
            }
        }
    }
}

void check_bias(std::mt19937 & random) {
    Input in({64, 64, 2, 3, 200, 7}, random);
    show(in, 2, 0, random);
    for (ggml_fp16_t & value : in.mask) {
        if (value == 0 && random() % 2 == 0) {
            value = ggml_fp32_to_fp16(-0.1f * float(random() % 50));
        }
    }
    compare(in, true, {2});
}

// The same cells elsewhere, in the same order, give the same bits.
void check_places(std::mt19937 & random) {
    const Shape shape{64, 64, 2, 7, 900, 5};
    Input near(shape, random), far = near;
    std::vector<int> places(shape.cells);
    std::iota(places.begin(), places.end(), 0);
    std::shuffle(places.begin(), places.end(), random);
    places.resize(310);
    std::sort(places.begin(), places.end());
    std::fill(near.mask.begin(), near.mask.end(), ggml_fp32_to_fp16(kHidden));
    far.mask = near.mask;
    for (int i = 0; i < 310; i++) {
        std::copy_n(&near.k[size_t(i) * 128], 128, &far.k[size_t(places[i]) * 128]);
        std::copy_n(&near.v[size_t(i) * 128], 128, &far.v[size_t(places[i]) * 128]);
        for (int row = 0; row < shape.rows; row++) {
            if (i <= 305 + row) {
                near.shown(0, row, i) = far.shown(0, row, places[i]) = 0;
            }
        }
    }
    // Reading `near` after `far` was filled: cells of `far` that were overwritten are hidden unless they are its own.
    check(same(attend(near, 0, shape.rows, 2), attend(far, 0, shape.rows, 2)), shape, 2,
          "other bits elsewhere");
}

// Writes a sequence's keys and values into given cells, one after the other, and attends with its last rows.
std::vector<float> write_and_attend(const Input & in, const std::vector<int> & places, int n_cells) {
    const Shape & s = in.shape;
    const int n = static_cast<int>(places.size());
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> context{
        ggml_init({size_t{48} << 20, nullptr, false}), ggml_free};
    ggml_context * c = context.get();
    ggml_tensor * index = ggml_new_tensor_1d(c, GGML_TYPE_I64, n);
    std::copy(places.begin(), places.end(), static_cast<int64_t *>(index->data));
    ggml_cgraph * graph = ggml_new_graph(c);
    const auto cache = [&](const std::vector<ggml_fp16_t> & values, int size) {
        ggml_tensor * t = ggml_new_tensor_2d(c, GGML_TYPE_F16, size * s.kv_heads, n_cells);
        std::memset(t->data, 0, ggml_nbytes(t));
        ggml_tensor * rows = ggml_new_tensor_2d(c, GGML_TYPE_F32, size * s.kv_heads, n);
        ggml_fp16_to_fp32_row(values.data(), static_cast<float *>(rows->data), ggml_nelements(rows));
        ggml_build_forward_expand(graph, ggml_set_rows(c, t, rows, index));
        const size_t row = t->nb[1];
        return ggml_view_4d(c, t, size, n_cells, s.kv_heads, 1, row, size * sizeof(ggml_fp16_t),
                            row * n_cells, 0);
    };
    ggml_tensor * k = cache(in.k, s.key_size);
    ggml_tensor * v = cache(in.v, s.value_size);
    ggml_tensor * q = ggml_new_tensor_3d(c, GGML_TYPE_F32, s.key_size, s.rows, s.heads());
    std::copy(in.q.begin(), in.q.end(), static_cast<float *>(q->data));
    ggml_tensor * mask = ggml_new_tensor_2d(c, GGML_TYPE_F16, n_cells, s.rows);
    ggml_fp16_t * shown = static_cast<ggml_fp16_t *>(mask->data);
    std::fill_n(shown, ggml_nelements(mask), ggml_fp32_to_fp16(kHidden));
    for (int row = 0; row < s.rows; row++) {
        for (int i = 0; i <= n - s.rows + row; i++) {
            shown[row * n_cells + places[i]] = 0;
        }
    }
    ggml_tensor * out = ggml_flash_attn_ext(c, q, k, v, mask, 1.0f / std::sqrt(float(s.key_size)), 0, 0);
    ggml_build_forward_expand(graph, out);
    ggml_graph_compute_with_ctx(c, graph, 2);
    slipstream_kernels_forget(nullptr); // the next graph may lie at the same addresses
    const float * data = static_cast<const float *>(out->data);
    return {data, data + ggml_nelements(out)};
}

// A sequence that was written into free cells here and there has the bits of one that lies in a row.
void check_order(std::mt19937 & random) {
    for (const int n : {5, 200, 310}) {
        const Shape shape{64, 64, 2, 7, n, 5};
        Input in(shape, random);
        std::vector<int> places(900);
        std::iota(places.begin(), places.end(), 0);
        const std::vector<int> in_a_row(places.begin(), places.begin() + n);
        std::shuffle(places.begin(), places.end(), random);
        places.resize(static_cast<size_t>(n));
        check(same(write_and_attend(in, in_a_row, n), write_and_attend(in, places, 900)), shape, 2,
              "other bits in another order of cells");
        std::rotate(places.begin(), places.begin() + n / 3, places.end());
        std::sort(places.begin(), places.begin() + n / 3); // some stretches that rise
        std::sort(places.begin() + n / 3, places.end());
        check(same(write_and_attend(in, in_a_row, n), write_and_attend(in, places, 900)), shape, 2,
              "other bits in stretches");
    }
}

void check_poison(std::mt19937 & random) {
    const Shape shape{64, 64, 2, 7, 256, 6};
    Input in(shape, random);
    show(in, shape.rows, 0, random);
    const std::vector<float> clean = attend(in, 0, shape.rows, 2);
    for (int cell = 0; cell < shape.cells; cell++) {
        bool is_seen = false;
        for (int row = 0; row < shape.rows; row++) {
            is_seen |= in.shown(0, row, cell) == 0;
        }
        if (!is_seen) {
            std::fill_n(&in.k[size_t(cell) * 128], 128, uint16_t{0x7e00});
            std::fill_n(&in.v[size_t(cell) * 128], 128, uint16_t{0x7c00});
        }
    }
    check(same(clean, attend(in, 0, shape.rows, 2)), shape, 2, "what a hidden cell holds is seen");
    in.q[size_t(3) * 64] = std::nanf(""); // head 0 of row 3
    const std::vector<float> sick = attend(in, 0, shape.rows, 2);
    const size_t size = size_t(shape.heads()) * 64;
    check(std::isnan(sick[3 * size]) && std::isnan(sick[3 * size + 63]), shape, 2, "not a number is lost");
    check(std::memcmp(&sick[3 * size + 64], &clean[3 * size + 64], (size - 64) * sizeof(float)) == 0 &&
              same(rows_of(shape, sick, 0, 3), rows_of(shape, clean, 0, 3)) &&
              same(rows_of(shape, sick, 4, 2), rows_of(shape, clean, 4, 2)),
          shape, 2, "not a number spreads");
    std::fill(in.mask.begin(), in.mask.end(), ggml_fp32_to_fp16(kHidden));
    const std::vector<float> blind = attend(in, 0, shape.rows, 2);
    check(std::all_of(blind.begin(), blind.end(), [](float x) { return x == 0.0f; }), shape, 2,
          "a row that sees nothing is not 0");
}

void check_random_shapes(int n, std::mt19937 & random) {
    const auto upto = [&](int most) { return 1 + static_cast<int>(random() % static_cast<unsigned>(most)); };
    for (int i = 0; i < n; i++) {
        Shape shape{16 * upto(8), 16 * upto(8), upto(4), upto(9), upto(400), upto(90), upto(2)};
        shape.sinks = upto(3) == 1;
        shape.masked = upto(5) > 1;
        Input in(shape, random);
        show(in, upto(shape.rows), upto(3) == 1 ? upto(100) : 0, random);
        compare(in, false, {3});
    }
}

} // namespace

int main(int argc, char ** argv) {
    std::mt19937 random(argc > 2 ? std::atoi(argv[2]) : 1);
    if (slipstream_kernels_isa() == nullptr) {
        std::fprintf(stderr, "no kernels\n");
        return 1;
    }
    if (argc > 1) {
        check_random_shapes(std::atoi(argv[1]), random);
    } else {
        check_shapes(random);
        check_bias(random);
        check_places(random);
        check_order(random);
        check_poison(random);
    }
    std::printf("%ld checks, %d failures\n", n_checks, n_failures);
    return n_failures > 100 ? 100 : n_failures;
}
