#include "qmatmul.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // false alarms inside the AVX-512 intrinsics of GCC 12
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "activations.h"
#include "ahead.h"
#include "decode.h"
#include "one_row.h"
#include "packed.h"
#include "tile.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

namespace {

constexpr int64_t kMaxRows = 512; // activation rows whose partial sums are kept while a panel is decoded once
// Where there are many, panels that take turns with a chunk's activations, which then come from a near cache but once,
// and whose results for a row lie together.
constexpr int64_t kManyRows = 8, kMaxPanels = 4;
constexpr int64_t kPanelSums = kMaxRows * kPanelRows; // places of the sums of a panel

// Some blocks of 32 columns.
template <typename T>
void decode(Rows rows, int n_blocks, Panel & panel, Ahead & ahead) {
    for (int b = 0; b < n_blocks; b += T::columns / 32, rows.begin += sizeof(typename T::Block)) {
        for (int half = 0; half < kPanelRows / kHalf; half++) {
            ahead.some();
            T::decode({rows.row(half * kHalf), rows.stride}, half, b, panel);
        }
    }
}

int blocks_of_chunk(const Product & p, int64_t c) {
    return static_cast<int>(std::min<int64_t>(kChunk, p.n_columns - c * kChunk) / 32);
}

// Bytes of a whole packed panel.
template <typename T>
size_t packed_panel_size(const Product & p) {
    const int64_t whole = p.n_columns / kChunk;
    const int rest = static_cast<int>(p.n_columns % kChunk / 32);
    return whole * Words<T>::chunk_size(kChunk / 32) + (rest > 0 ? Words<T>::chunk_size(rest) : 0);
}

bool is_whole(const Product & p, int64_t panel) {
    return (panel + 1) * kPanelRows <= p.n_weights;
}

struct Bytes {
    const char * begin;
    int64_t n;
};

// Where a panel is read from; nothing if there is no such panel.
template <typename T>
Bytes bytes_of_panel(const Product & p, int64_t panel) {
    if (panel < 0 || panel * kPanelRows >= p.n_weights) {
        return {nullptr, 0};
    }
    if (p.packed != nullptr && is_whole(p, panel)) {
        const size_t size = packed_panel_size<T>(p);
        return {reinterpret_cast<const char *>(p.packed) + panel * size, static_cast<int64_t>(size)};
    }
    const int64_t first = panel * kPanelRows, n = std::min<int64_t>(kPanelRows, p.n_weights - first);
    return {reinterpret_cast<const char *>(p.weights + first * p.weight_stride),
            static_cast<int64_t>(n * p.weight_stride)};
}

// What corresponds to a chunk in a panel that comes next.
class Upcoming {
  public:
    Upcoming() = default;
    Upcoming(Bytes bytes, int64_t n_columns) : bytes_(bytes), per_chunk_(bytes.n * kChunk / n_columns) {}
    Ahead part(int64_t c, int n_calls) const {
        const int64_t begin = std::min(c * per_chunk_, bytes_.n),
                      end = std::min(begin + per_chunk_, bytes_.n);
        return {bytes_.begin + begin, bytes_.begin + end, n_calls};
    }

  private:
    Bytes bytes_{nullptr, 0};
    int64_t per_chunk_ = 0;
};

// What comes after some adjacent panels, `next` and the following; negative: nothing.
template <typename T>
struct UpcomingPanels {
    Upcoming panels[kMaxPanels];

    UpcomingPanels(const Product & p, int64_t next, int n) {
        for (int i = 0; i < n; i++) {
            panels[i] = {bytes_of_panel<T>(p, next < 0 ? next : next + i), p.n_columns};
        }
    }
};

// The sums of a panel and one activation row.
template <typename T>
void multiply_one_row(const Product & p, RowBytes rows, int64_t next, int64_t row, float * sums) {
    const Upcoming upcoming(bytes_of_panel<T>(p, next), p.n_columns);
    for (int64_t c = 0; c < n_chunks(p.n_columns); c++) {
        const int n_blocks = blocks_of_chunk(p, c);
        Ahead ahead = upcoming.part(c, OneRow<T>::n_calls(n_blocks));
        OneRow<T>::dot(rows, n_blocks, p.activations[c * p.chunk_stride + row], sums, ahead);
        rows.begin += n_blocks * 32 / T::columns * sizeof(typename T::Block);
    }
}

// The sums of adjacent panels, kPanelSums apart, and n_rows activation rows. `next` is the panel to come; negative: none.
template <typename T>
void multiply_rows(const Product & p, Rows rows, int n_panels, int64_t next, int64_t first_row,
                   int64_t n_rows, float * sums) {
    if constexpr (OneRow<T>::exists) {
        if (n_rows == 1) {
            multiply_one_row<T>(p, {rows}, next, first_row, sums);
            return;
        }
    }
    const UpcomingPanels<T> upcoming(p, next, n_panels);
    Panel panel;
    for (int64_t c = 0; c < n_chunks(p.n_columns); c++) {
        const int n_blocks = blocks_of_chunk(p, c);
        const int n_decodes = (n_blocks * 32 + T::columns - 1) / T::columns * (kPanelRows / kHalf);
        for (int i = 0; i < n_panels; i++) {
            Ahead ahead = upcoming.panels[i].part(c, n_decodes + n_blocks);
            decode<T>({rows.row(i * kPanelRows), rows.stride}, n_blocks, panel, ahead);
            tiles<T>(panel, n_blocks, p.activations + c * p.chunk_stride + first_row, n_rows,
                     sums + i * kPanelSums, ahead);
        }
        rows.begin += n_blocks * 32 / T::columns * sizeof(typename T::Block);
    }
}

// The same for packed panels. Few rows meet weights as they come out of memory; for many they are unpacked once.
template <typename T>
void multiply_packed(const Product & p, int64_t first_panel, int n_panels, int64_t next, int64_t first_row,
                     int64_t n_rows, float * sums) {
    const size_t panel_size = packed_panel_size<T>(p);
    const uint8_t * begin = p.packed + first_panel * panel_size;
    const UpcomingPanels<T> upcoming(p, next, n_panels);
    Panel panel;
    for (int64_t c = 0; c < n_chunks(p.n_columns); c++) {
        const int n_blocks = blocks_of_chunk(p, c);
        const Activations * activations = p.activations + c * p.chunk_stride + first_row;
        for (int i = 0; i < n_panels; i++) {
            Ahead ahead = upcoming.panels[i].part(c, n_blocks);
            const Packed<T> packed{PackedWords<T>{begin + i * panel_size, n_blocks * 32 / T::columns}};
            if (n_rows <= kRowTile) {
                tiles<T>(packed, n_blocks, activations, n_rows, sums + i * kPanelSums, ahead);
            } else {
                unpack<T>(packed, n_blocks, panel);
                tiles<T>(panel, n_blocks, activations, n_rows, sums + i * kPanelSums, ahead);
            }
        }
        begin += Words<T>::chunk_size(n_blocks);
    }
}

// The results of adjacent panels. One that is not whole comes alone.
template <typename T>
void multiply_panels(const Product & p, int64_t panel, int n_panels, int64_t next, int64_t first_row,
                     int64_t n_rows) {
    alignas(64) float sums[kMaxPanels * kPanelSums];
    const int64_t first = panel * kPanelRows;
    const auto write_part = [&](int64_t first_lane, int64_t at, int64_t n) {
        for (int64_t r = 0; r < n_rows; r++) {
            std::copy_n(sums + r * kPanelRows + first_lane, n, p.out_row(first_row + r) + at);
        }
    };
    if (p.n_weights < kPanelRows) { // one by one, in every lane
        for (int64_t i = 0; i < p.n_weights; i++) {
            std::fill_n(sums, n_rows * kPanelRows, 0.0f);
            multiply_rows<T>(p, {p.weights + i * p.weight_stride, 0}, 1, next, first_row, n_rows, sums);
            write_part(0, i, 1);
        }
        return;
    }
    // The last panel begins where it is whole.
    const int64_t begin = std::min(first, p.n_weights - kPanelRows);
    for (int i = 0; i < n_panels; i++) {
        std::fill_n(sums + i * kPanelSums, n_rows * kPanelRows, 0.0f);
    }
    if (p.packed != nullptr && begin == first) {
        multiply_packed<T>(p, panel, n_panels, next, first_row, n_rows, sums);
    } else {
        multiply_rows<T>(p, {p.weights + begin * p.weight_stride, p.weight_stride}, n_panels, next, first_row,
                         n_rows, sums);
    }
    if (begin < first) {
        write_part(first - begin, first, p.n_weights - first);
        return;
    }
    for (int64_t r = 0; r < n_rows; r++) {
        float * to = p.out_row(first_row + r) + first;
        for (int i = 0; i < n_panels; i++) { // a call for 64 bytes would take as long as a product
            store_f(to + i * kPanelRows, load_f(sums + i * kPanelSums + r * kPanelRows));
        }
    }
}

template <typename T>
void multiply_as(const Product & p, int64_t first_panel, int64_t last_panel, int64_t upcoming) {
    const int64_t last_whole = std::min(last_panel, p.n_weights / kPanelRows);
    for (int64_t row = 0; row < p.n_rows; row += kMaxRows) {
        const int64_t n_rows = std::min(kMaxRows, p.n_rows - row);
        const int64_t after = row + kMaxRows < p.n_rows ? first_panel : upcoming;
        for (int64_t panel = first_panel, next; panel < last_panel; panel = next) {
            const int64_t n =
                n_rows < kManyRows || panel >= last_whole ? 1 : std::min(kMaxPanels, last_whole - panel);
            next = panel + n;
            multiply_panels<T>(p, panel, static_cast<int>(n), next < last_panel ? next : after, row, n_rows);
        }
    }
}

template <typename T>
void bring_panel(const Product & p, int64_t panel) {
    const Bytes bytes = bytes_of_panel<T>(p, panel);
    Ahead(bytes.begin, bytes.begin + bytes.n, 1).some();
}

template <typename T>
void pack_panel(const Product & p, int64_t panel, uint8_t * out) {
    out += panel * packed_panel_size<T>(p);
    Rows rows{p.weights + panel * kPanelRows * p.weight_stride, p.weight_stride};
    for (int64_t c = 0; c < n_chunks(p.n_columns); c++) {
        const int n_blocks = blocks_of_chunk(p, c);
        pack_chunk<T>(rows, n_blocks, out);
        rows.begin += n_blocks * 32 / T::columns * sizeof(typename T::Block);
        out += Words<T>::chunk_size(n_blocks);
    }
}

// What there is for a type of weights.
struct Functions {
    void (*multiply)(const Product &, int64_t first_panel, int64_t last_panel, int64_t upcoming);
    void (*bring)(const Product &, int64_t panel);
    size_t (*packed_panel_size)(const Product &);
    void (*pack_panel)(const Product &, int64_t panel, uint8_t * out);
    int offset_log2;
};

template <typename T>
constexpr Functions kFunctions{multiply_as<T>, bring_panel<T>, packed_panel_size<T>, pack_panel<T>,
                               T::offset_log2};

const Functions * find_functions(ggml_type type) {
    switch (type) {
    case GGML_TYPE_Q4_0:
        return &kFunctions<Q4_0>;
    case GGML_TYPE_Q4_1:
        return &kFunctions<Q4_1>;
    case GGML_TYPE_Q5_0:
        return &kFunctions<Q5_0>;
    case GGML_TYPE_Q5_1:
        return &kFunctions<Q5_1>;
    case GGML_TYPE_Q8_0:
        return &kFunctions<Q8_0>;
    case GGML_TYPE_Q2_K:
        return &kFunctions<Q2_K>;
    case GGML_TYPE_Q3_K:
        return &kFunctions<Q3_K>;
    case GGML_TYPE_Q4_K:
        return &kFunctions<Q4_K>;
    case GGML_TYPE_Q5_K:
        return &kFunctions<Q5_K>;
    case GGML_TYPE_Q6_K:
        return &kFunctions<Q6_K>;
    case GGML_TYPE_IQ4_NL:
        return &kFunctions<IQ4_NL>;
    case GGML_TYPE_IQ4_XS:
        return &kFunctions<IQ4_XS>;
    default:
        return nullptr;
    }
}

} // namespace

const char * instruction_set() {
    return SLIPSTREAM_KERNELS_VNNI ? "avx512-vnni" : "avx2";
}
bool serves(ggml_type type) {
    return find_functions(type) != nullptr;
}
int panel_rows() {
    return kPanelRows;
}

void quantize(ggml_type weights, const float * row, int64_t n_columns, int64_t chunk, Activations & out) {
    const float * x = row + chunk * kChunk;
    const int64_t n = n_columns - chunk * kChunk;
    float whole[kChunk];
    if (n < kChunk) {
        std::fill(std::copy_n(x, n, whole), whole + kChunk, 0.0f);
        x = whole;
    }
    quantize_chunk(weights, find_functions(weights)->offset_log2, x, out);
}

void multiply(const Product & product, int64_t first_panel, int64_t last_panel, int64_t upcoming) {
    find_functions(product.type)->multiply(product, first_panel, last_panel, upcoming);
}
void bring(const Product & product, int64_t panel) {
    find_functions(product.type)->bring(product, panel);
}

size_t packed_size(const Product & product) {
    const Functions * functions = find_functions(product.type);
    return functions == nullptr ? 0 : product.n_weights / kPanelRows * functions->packed_panel_size(product);
}
void pack(const Product & product, int64_t first_panel, int64_t last_panel, uint8_t * out) {
    for (int64_t panel = first_panel; panel < last_panel && is_whole(product, panel); panel++) {
        find_functions(product.type)->pack_panel(product, panel, out);
    }
}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels

#else

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

const char * instruction_set() {
    return nullptr;
}
bool serves(ggml_type) {
    return false;
}
int panel_rows() {
    return 1;
}
void quantize(ggml_type, const float *, int64_t, int64_t, Activations &) {}
void multiply(const Product &, int64_t, int64_t, int64_t) {}
void bring(const Product &, int64_t) {}
size_t packed_size(const Product &) {
    return 0;
}
void pack(const Product &, int64_t, int64_t, uint8_t *) {}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels

#endif
