// Checks the matrix product kernels in the instruction set this file is compiled for: against a reference in double
// precision, against the error of upstream's dot product, and for bit-identity over the number of rows.
// Everything is computed from the weights as they lie in a file and as pack() arranges them, which must not make a difference.
// Prints a hash of all results, by which the instruction sets can be compared. Exits with the number of failures.
// Weights and results are as large as they must be and no larger, so that an address sanitizer sees every step beyond.
//
// usage: test_kernels                    every type and number of rows, and 60 random shapes
//        test_kernels SHAPES [SEED]      only special values and so many random shapes
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "ggml-cpu.h"
#include "ggml.h"
#include "kernels/qmatmul.h"

namespace kernels = slipstream::kernels;

namespace {

int n_failures = 0;
uint64_t hash = 1469598103934665603u;

void check(bool ok, ggml_type type, int64_t columns, int64_t weights, int64_t rows, const char * what) {
    if (!ok) {
        n_failures++;
        std::fprintf(stderr, "%s: %s, %d columns, %d weights, %d rows\n", what, ggml_type_name(type),
                     static_cast<int>(columns), static_cast<int>(weights), static_cast<int>(rows));
    }
}

struct Case {
    ggml_type type;
    int64_t columns, weights;
    std::vector<uint8_t> quantized, packed;
    std::vector<float> decoded;
    size_t stride;

    Case(ggml_type t, int64_t c, int64_t w, std::mt19937 & random) : type(t), columns(c), weights(w) {
        std::normal_distribution<float> normal;
        std::vector<float> values(columns * weights);
        for (float & v : values) {
            v = normal(random);
        }
        std::fill_n(values.begin(), 32, 0.0f); // a block of zeros
        stride = ggml_row_size(type, columns);
        quantized.resize(stride * weights);
        ggml_quantize_chunk(type, values.data(), quantized.data(), 0, weights, columns, nullptr);
        decoded.resize(columns * weights);
        for (int64_t i = 0; i < weights; i++) {
            ggml_get_type_traits(type)->to_float(&quantized[i * stride], &decoded[i * columns], columns);
        }
        pack();
    }

    void pack() {
        const kernels::Product p = product();
        packed.resize(kernels::packed_size(p));
        kernels::pack(p, 0, n_panels() / 2, packed.data());
        kernels::pack(p, n_panels() / 2, n_panels(), packed.data());
    }

    int64_t n_panels() const { return (weights + kernels::panel_rows() - 1) / kernels::panel_rows(); }

    kernels::Product product() const {
        kernels::Product p{};
        p.type = type;
        p.weights = quantized.data();
        p.weight_stride = stride;
        p.n_columns = columns;
        p.n_weights = weights;
        return p;
    }

    std::vector<float> multiply(const float * x, int64_t rows) const {
        const int64_t n_chunks = kernels::n_chunks(columns);
        std::vector<kernels::Activations> activations(n_chunks * rows);
        for (int64_t c = 0; c < n_chunks; c++) {
            for (int64_t r = 0; r < rows; r++) {
                kernels::quantize(type, x + r * columns, columns, c, activations[c * rows + r]);
            }
        }
        std::vector<float> out(rows * weights, NAN), again(rows * weights, NAN);
        kernels::Product p = product();
        p.activations = activations.data();
        p.chunk_stride = p.n_rows = rows;
        p.out = out.data();
        p.out_stride = weights * sizeof(float);
        kernels::multiply(p, 0, n_panels() / 2);
        kernels::multiply(p, n_panels() / 2, n_panels());
        p.packed = packed.data();
        p.out = again.data();
        kernels::multiply(p, 0, n_panels() / 2, n_panels() / 2);
        kernels::multiply(p, n_panels() / 2, n_panels());
        check(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)) == 0, type, columns, weights,
              rows, "packed weights give something else");
        return out;
    }

    std::vector<float> upstream(const float * x, int64_t rows) const {
        const ggml_type_traits_cpu * traits = ggml_get_type_traits_cpu(type);
        std::vector<uint8_t> q(ggml_row_size(traits->vec_dot_type, columns));
        std::vector<float> out(rows * weights);
        for (int64_t r = 0; r < rows; r++) {
            ggml_get_type_traits_cpu(traits->vec_dot_type)->from_float(x + r * columns, q.data(), columns);
            for (int64_t i = 0; i < weights; i++) {
                traits->vec_dot(static_cast<int>(columns), &out[r * weights + i], 0, &quantized[i * stride],
                                0, q.data(), 0, 1);
            }
        }
        return out;
    }

    std::vector<double> reference(const float * x, int64_t rows) const {
        std::vector<double> out(rows * weights);
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t i = 0; i < weights; i++) {
                double sum = 0;
                for (int64_t k = 0; k < columns; k++) {
                    sum += static_cast<double>(decoded[i * columns + k]) * x[r * columns + k];
                }
                out[r * weights + i] = sum;
            }
        }
        return out;
    }
};

double error(const std::vector<float> & got, const std::vector<double> & want) {
    double sum = 0;
    for (size_t i = 0; i < got.size(); i++) {
        sum += (got[i] - want[i]) * (got[i] - want[i]);
    }
    return std::sqrt(sum / static_cast<double>(got.size()));
}

void check_shape(ggml_type type, int64_t columns, int64_t weights, std::mt19937 & random) {
    constexpr int64_t max_rows = 33;
    const Case c(type, columns, weights, random);
    std::normal_distribution<float> normal;
    std::vector<float> x(max_rows * columns);
    for (float & v : x) {
        v = normal(random);
    }
    std::fill_n(x.begin() + columns, 32, 0.0f);
    const std::vector<float> all = c.multiply(x.data(), max_rows);
    // A few results are a small sample of errors: allow for that, and for the sums' own rounding.
    const double ours = error(all, c.reference(x.data(), max_rows));
    const double theirs = error(c.upstream(x.data(), max_rows), c.reference(x.data(), max_rows));
    check(ours <= 1.1 * theirs + 1e-5, type, columns, weights, max_rows, "error above upstream's");
    for (int64_t rows = 1; rows <= max_rows; rows++) {
        const int64_t first = max_rows - rows; // so that a row also has another place in its tile
        const std::vector<float> some = c.multiply(&x[first * columns], rows);
        check(std::memcmp(some.data(), &all[first * weights], some.size() * sizeof(float)) == 0, type,
              columns, weights, rows, "depends on the number of rows");
    }
    for (float v : all) {
        uint32_t bits;
        std::memcpy(&bits, &v, 4);
        hash = (hash ^ bits) * 1099511628211u;
    }
}

// Any shape, any part of the rows, weights cut anywhere among the panels.
void check_random_shape(std::mt19937 & random) {
    const auto draw = [&](int64_t first, int64_t last) {
        return std::uniform_int_distribution<int64_t>(first, last)(random);
    };
    ggml_type type;
    do {
        type = static_cast<ggml_type>(draw(0, GGML_TYPE_COUNT - 1));
    } while (!kernels::serves(type));
    const int64_t block = ggml_blck_size(type);
    const int64_t columns = block * draw(1, block == 256 ? 6 : 40), weights = draw(1, 80);
    const int64_t max_rows = draw(0, 7) == 0 ? draw(250, 300) : draw(1, 40);
    const Case c(type, columns, weights, random);
    std::normal_distribution<float> normal(0.0f, std::pow(10.0f, static_cast<float>(draw(-6, 6))));
    std::vector<float> x(max_rows * columns);
    for (float & v : x) {
        v = normal(random);
    }
    const std::vector<float> all = c.multiply(x.data(), max_rows);
    const std::vector<double> want = c.reference(x.data(), max_rows);
    double size = 0;
    for (double v : want) {
        size += v * v;
    }
    size = std::sqrt(size / static_cast<double>(want.size()));
    check(error(all, want) <= 0.03 * size, type, columns, weights, max_rows, "far from the reference");
    for (int i = 0; i < 3; i++) {
        const int64_t first = draw(0, max_rows - 1), rows = draw(1, max_rows - first);
        const std::vector<float> some = c.multiply(&x[first * columns], rows);
        check(std::memcmp(some.data(), &all[first * weights], some.size() * sizeof(float)) == 0, type,
              columns, weights, rows, "depends on the number of rows");
    }
}

// What quantized activations cannot express must stay where it is, and tiny numbers must not become large ones.
void check_special_values(ggml_type type, std::mt19937 & random) {
    const int64_t columns = 512, weights = 16;
    const Case c(type, columns, weights, random);
    std::vector<float> x(3 * columns, 1e-42f);
    std::fill_n(x.begin() + columns, columns, 1.0f);
    x[2 * columns + 300] = INFINITY;
    const std::vector<float> out = c.multiply(x.data(), 3);
    const std::vector<float> alone = c.multiply(&x[columns], 1);
    for (int64_t i = 0; i < weights; i++) {
        check(std::fabs(out[i]) < 1e-30f, type, columns, weights, 3, "denormals");
        check(!std::isfinite(out[2 * weights + i]), type, columns, weights, 3, "infinity is lost");
    }
    check(std::memcmp(alone.data(), &out[weights], weights * sizeof(float)) == 0, type, columns, weights, 3,
          "an infinite row changes another");
}

// Where a block has its half-precision numbers.
std::vector<size_t> scale_offsets(ggml_type type) {
    const size_t end = ggml_type_size(type);
    switch (type) {
    case GGML_TYPE_Q4_1:
    case GGML_TYPE_Q5_1:
    case GGML_TYPE_Q4_K:
    case GGML_TYPE_Q5_K:
        return {0, 2};
    case GGML_TYPE_Q2_K:
        return {end - 4, end - 2};
    case GGML_TYPE_Q3_K:
    case GGML_TYPE_Q6_K:
        return {end - 2};
    default:
        return {0};
    }
}

// The largest magnitudes of weights and activations: sums that are kept in 16 bits must hold them.
void check_extremes(ggml_type type, std::mt19937 & random) {
    const int64_t columns = 512, weights = 17;
    Case c(type, columns, weights, random);
    std::uniform_int_distribution<int> byte(0, 3);
    const size_t block = ggml_type_size(type);
    for (uint8_t & b : c.quantized) {
        b = byte(random) == 0 ? 0x7f : 0xff;
    }
    for (size_t at = 0; at < c.quantized.size(); at += block) {
        for (size_t offset : scale_offsets(type)) {
            const uint16_t one = 0x3c00;
            std::memcpy(&c.quantized[at + offset], &one, 2);
        }
    }
    for (int64_t i = 0; i < weights; i++) {
        ggml_get_type_traits(type)->to_float(&c.quantized[i * c.stride], &c.decoded[i * columns], columns);
    }
    c.pack();
    std::vector<float> x(5 * columns, 127.0f);
    std::fill_n(x.begin() + columns, columns, -127.0f);
    for (int64_t i = 0; i < columns; i++) {
        x[2 * columns + i] = i % 2 ? 127.0f : -127.0f;
    }
    const auto check_exact = [&](const std::vector<float> & rows) {
        const int64_t n = static_cast<int64_t>(rows.size()) / columns;
        const std::vector<float> out = c.multiply(rows.data(), n);
        const std::vector<double> want = c.reference(rows.data(), n);
        for (size_t i = 0; i < out.size(); i++) {
            // All values are exact in 8 bits; only the float sums round.
            check(std::fabs(out[i] - want[i]) <= 1e-5 * std::max(1e5, std::fabs(want[i])), type, columns,
                  weights, n, "extremes");
        }
    };
    check_exact(x);
    // So many of the largest in each half of a block that the sums of 32 weights of 4 or 5 bits, or of 16 of 6 bits,
    // just fit 16 bits; then one more.
    for (int n_large : {4, 5, 8, 9}) {
        std::vector<float> rows(2 * columns);
        for (int64_t i = 0; i < columns; i++) {
            rows[i] = i % 16 < n_large ? 127.0f : 0.0f;
            rows[columns + i] = -rows[i];
        }
        check_exact(rows);
    }
}

} // namespace

int main(int argc, char ** argv) {
    ggml_cpu_init();
    if (kernels::instruction_set() == nullptr) {
        std::printf("none\n");
        return 0;
    }
    std::mt19937 random(1);
    for (int t = 0; t < GGML_TYPE_COUNT; t++) {
        const ggml_type type = static_cast<ggml_type>(t);
        if (!kernels::serves(type)) {
            continue;
        }
        check_special_values(type, random);
        check_extremes(type, random);
        if (argc > 1) {
            continue;
        }
        const bool super = ggml_blck_size(type) == 256;
        for (int64_t columns :
             super ? std::vector<int64_t>{256, 512, 1280} : std::vector<int64_t>{32, 96, 256, 576, 896}) {
            for (int64_t weights : {1, 7, 8, 16, 17, 33, 50}) {
                check_shape(type, columns, weights, random);
            }
        }
    }
    random.seed(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1);
    for (int i = argc > 1 ? std::atoi(argv[1]) : 60; i > 0; i--) {
        check_random_shape(random);
    }
    std::printf("%s %016llx\n", kernels::instruction_set(), static_cast<unsigned long long>(hash));
    return std::min(n_failures, 100);
}
