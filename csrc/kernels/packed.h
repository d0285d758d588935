// Weights re-arranged into panels, in about as many bytes as in the file: what transposing makes of blocks every time, kept.
//
// A chunk of a panel is 256 columns (or what is left) of its rows, all of it adjacent. The 32-bit words of the rows'
// blocks come first: word w of block u of all rows is one vector. Half-precision numbers that leave a block's size
// no multiple of 4 follow:
//
//     | block 0, word 0: row 0, row 1, … | word 1 | … | block 1, word 0 | … | block 0, half: row 0, row 1, … | …
#pragma once

#include "decode.h"
#include "simd_float.h"

// What works on one chunk must become one function: calls, and prefetching whose state then lies in memory, would cost
// half as much again. GCC makes them where the file has grown.
#define SLIPSTREAM_INLINE [[gnu::always_inline]] inline

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// How a type's blocks are taken apart.
template <typename T>
struct Words {
    static constexpr size_t size = sizeof(typename T::Block);
    static constexpr bool has_half = size % 4 != 0;
    static constexpr bool half_is_first = T::columns == 32; // else it is last
    static constexpr size_t half_at = half_is_first ? 0 : size - 2;
    static constexpr size_t begin = has_half && half_is_first ? 2 : 0;
    static constexpr int n = static_cast<int>(size / 4);

    // Bytes of a chunk of so many blocks of 32 columns: whole cache lines.
    static constexpr size_t chunk_size(int n_blocks) {
        const size_t bytes = size * kPanelRows * ((n_blocks * 32 + T::columns - 1) / T::columns);
        return (bytes + 63) / 64 * 64;
    }
};

template <typename T>
void pack_chunk(const Rows & rows, int n_blocks, uint8_t * out) {
    using W = Words<T>;
    const int n_units = n_blocks * 32 / T::columns;
    uint8_t * halves = out + size_t{4} * W::n * kPanelRows * n_units;
    for (int u = 0; u < n_units; u++) {
        for (int i = 0; i < kPanelRows; i++) {
            const uint8_t * block = rows.row(i) + u * W::size;
            for (int w = 0; w < W::n; w++) {
                std::memcpy(out + ((u * W::n + w) * kPanelRows + i) * 4, block + W::begin + 4 * w, 4);
            }
            if constexpr (W::has_half) {
                std::memcpy(halves + (u * kPanelRows + i) * 2, block + W::half_at, 2);
            }
        }
    }
}

// A chunk as it was packed.
template <typename T>
struct PackedWords {
    static constexpr bool is_made_here = true; // not only loaded
    const uint8_t * begin;
    int n_units;

    SLIPSTREAM_INLINE IntVector word(int unit, int w) const {
        return load_i(begin + (unit * Words<T>::n + w) * kPanelRows * 4);
    }
    SLIPSTREAM_INLINE FloatVector half(int unit) const {
        const uint8_t * halves = begin + Words<T>::n * kPanelRows * 4 * n_units;
        return load_half(reinterpret_cast<const uint16_t *>(halves + unit * kPanelRows * 2));
    }
};

SLIPSTREAM_INLINE IntVector low_nibble(IntVector v) {
    return bits_of(v, broadcast_byte(0x0f));
}
SLIPSTREAM_INLINE IntVector high_nibble(IntVector v) {
    return bits_of(shift_right(v, 4), broadcast_byte(0x0f));
}
// Bit `bit` of every byte.
SLIPSTREAM_INLINE IntVector one_bit(IntVector v, int bit) {
    return bits_of(shift_right(v, bit), broadcast_byte(1));
}
// Byte i of every lane as a number.
SLIPSTREAM_INLINE IntVector unsigned_byte(IntVector v, int i) {
    return bits_of(shift_right(v, 8 * i), broadcast_i(0xff));
}
SLIPSTREAM_INLINE IntVector signed_byte(IntVector v, int i) {
    return shift_right_signed(shift_left(v, 24 - 8 * i), 24);
}
// Bytes 2 i and 2 i + 1 as 16-bit numbers.
SLIPSTREAM_INLINE IntVector byte_pair(IntVector v, int i) {
    const IntVector pair = shift_right(v, 16 * i);
    return either(bits_of(pair, broadcast_i(0xff)), shift_left(bits_of(pair, broadcast_i(0xff00)), 8));
}
SLIPSTREAM_INLINE IntVector signed_byte_pair(IntVector v, int i) {
    const IntVector pair = shift_right(v, 16 * i);
    return signed_upper_bytes(either(shift_left(bits_of(pair, broadcast_i(0xff)), 8),
                                     shift_left(bits_of(pair, broadcast_i(0xff00)), 16)));
}

// A packed chunk for `tile`: what a Panel has, made as it is asked for.
//     step(b, k)                columns 32 b + 4 k … + 3, unsigned bytes (of 8 bits: as place_sign makes them)
//     scale(i), minimum(i)      of block i of T::sub_block columns
//     factors(p), minima(p), d(), minus_d_min()      with integer scales, of the pair of blocks 2 p and 2 p + 1
template <typename T>
struct Packed;

template <>
struct Packed<Q8_0> : PackedWords<Q8_0> {
    SLIPSTREAM_INLINE IntVector step(int b, int k) const { return place_sign(word(b, k)); }
    SLIPSTREAM_INLINE FloatVector scale(int b) const { return half(b); }
};

template <>
struct Packed<IQ4_NL> : PackedWords<IQ4_NL> {
    SLIPSTREAM_INLINE IntVector step(int b, int k) const {
        const IntVector v = word(b, k % 4), values = place_sign(load_everywhere(kIq4Values));
        return look_up(values, k < 4 ? low_nibble(v) : high_nibble(v));
    }
    SLIPSTREAM_INLINE FloatVector scale(int b) const { return half(b); }
};

template <typename B, int n_bits, bool has_minimum>
struct Packed<Legacy<B, n_bits, has_minimum>> : PackedWords<Legacy<B, n_bits, has_minimum>> {
    static constexpr int high_at = has_minimum ? 1 : 0, quants_at = high_at + (n_bits == 5 ? 1 : 0);

    SLIPSTREAM_INLINE IntVector step(int b, int k) const {
        IntVector v = this->word(b, quants_at + k % 4);
        v = k < 4 ? low_nibble(v) : high_nibble(v);
        if constexpr (n_bits == 5) {
            // All four bytes of a lane get the byte their bits are in, and look at one bit each.
            const int byte = k / 2;
            const IntVector places = either(load_everywhere(kLanes), broadcast_byte(byte));
            const IntVector bits = broadcast_i(k % 2 ? static_cast<int>(0x80402010) : 0x08040201);
            v = add_fifth_bits(v, look_up(this->word(b, high_at), places), bits);
        }
        return v;
    }
    SLIPSTREAM_INLINE FloatVector scale(int b) const {
        if constexpr (has_minimum) {
            return low_half(this->word(b, 0));
        } else {
            return this->half(b);
        }
    }
    SLIPSTREAM_INLINE FloatVector minimum(int b) const { return low_half(shift_right(this->word(b, 0), 16)); }

  private:
    alignas(16) static constexpr int8_t kLanes[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};
};

// The scales and minima of a block of Q4_K or Q5_K, of which `head` has the first 16 bytes; see SuperBlock::decode_scales.
struct SuperScales {
    FloatVector d, minus_d_min;
    IntVector scale[2], minimum[2]; // 4 bytes each

    SLIPSTREAM_INLINE explicit SuperScales(const IntVector (&head)[4]) {
        const IntVector six = broadcast_byte(0x3f), upper = broadcast_byte(0x30);
        d = low_half(head[0]);
        minus_d_min = negated(low_half(shift_right(head[0], 16)));
        scale[0] = bits_of(head[1], six);
        minimum[0] = bits_of(head[2], six);
        scale[1] = either(low_nibble(head[3]), bits_of(shift_right(head[1], 2), upper));
        minimum[1] = either(high_nibble(head[3]), bits_of(shift_right(head[2], 2), upper));
    }
    SLIPSTREAM_INLINE IntVector factors(int pair) const { return byte_pair(scale[pair / 2], pair % 2); }
    SLIPSTREAM_INLINE IntVector minima(int pair) const { return byte_pair(minimum[pair / 2], pair % 2); }
};

template <typename B, int n_bits>
struct Packed<SuperBlock<B, n_bits>> : PackedWords<SuperBlock<B, n_bits>> {
    SuperScales scales;
    static constexpr int high_at = 4, quants_at = n_bits == 5 ? 12 : 4;

    SLIPSTREAM_INLINE explicit Packed(const PackedWords<SuperBlock<B, n_bits>> & words)
        : PackedWords<SuperBlock<B, n_bits>>(words),
          scales({words.word(0, 0), words.word(0, 1), words.word(0, 2), words.word(0, 3)}) {}
    SLIPSTREAM_INLINE IntVector step(int b, int k) const {
        IntVector v = this->word(0, quants_at + b / 2 * 8 + k);
        v = b % 2 == 0 ? low_nibble(v) : high_nibble(v);
        if constexpr (n_bits == 5) {
            v = either(v, shift_left(one_bit(this->word(0, high_at + k), b), 4));
        }
        return v;
    }
    SLIPSTREAM_INLINE IntVector factors(int pair) const { return scales.factors(pair); }
    SLIPSTREAM_INLINE IntVector minima(int pair) const { return scales.minima(pair); }
    SLIPSTREAM_INLINE FloatVector d() const { return scales.d; }
    SLIPSTREAM_INLINE FloatVector minus_d_min() const { return scales.minus_d_min; }
};

template <>
struct Packed<Q6_K> : PackedWords<Q6_K> {
    SLIPSTREAM_INLINE IntVector step(int b, int k) const {
        const int part = b / 4, block = b % 4;
        const IntVector low = word(0, 16 * part + 8 * (block % 2) + k), high = word(0, 32 + 8 * part + k);
        return six_bits(block < 2 ? low : shift_right(low, 4),
                        block < 2 ? shift_left(high, 4 - 2 * block) : shift_right(high, 2 * block - 4));
    }
    SLIPSTREAM_INLINE IntVector factors(int pair) const {
        return signed_byte_pair(word(0, 48 + pair / 2), pair % 2);
    }
    SLIPSTREAM_INLINE FloatVector d() const { return half(0); }
};

template <>
struct Packed<Q2_K> : PackedWords<Q2_K> {
    FloatVector d, minus_d_min;

    SLIPSTREAM_INLINE explicit Packed(const PackedWords<Q2_K> & words)
        : PackedWords<Q2_K>(words),
          d(low_half(words.word(0, 20))),
          minus_d_min(negated(low_half(shift_right(words.word(0, 20), 16)))) {}
    SLIPSTREAM_INLINE IntVector step(int b, int k) const {
        return bits_of(shift_right(word(0, 4 + 8 * (b / 4) + k), 2 * (b % 4)), broadcast_byte(3));
    }
    SLIPSTREAM_INLINE FloatVector scale(int i) const {
        return multiply(d, number(low_nibble(word(0, i / 4)), i));
    }
    SLIPSTREAM_INLINE FloatVector minimum(int i) const {
        return multiply(minus_d_min, number(high_nibble(word(0, i / 4)), i));
    }

  private:
    SLIPSTREAM_INLINE static FloatVector number(IntVector bytes, int i) {
        return to_float(unsigned_byte(bytes, i % 4));
    }
};

template <>
struct Packed<Q3_K> : PackedWords<Q3_K> {
    FloatVector d;
    IntVector numbers[4]; // those of 16 blocks

    SLIPSTREAM_INLINE explicit Packed(const PackedWords<Q3_K> & words)
        : PackedWords<Q3_K>(words), d(words.half(0)) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const IntVector v = word(0, 24 + i % 2);
            const IntVector upper = bits_of(shift_right(word(0, 26), 2 * i), broadcast_byte(3));
            numbers[i] = either(i < 2 ? low_nibble(v) : high_nibble(v), shift_left(upper, 4));
        }
    }
    SLIPSTREAM_INLINE IntVector step(int b, int k) const {
        const IntVector low =
            bits_of(shift_right(word(0, 8 + 8 * (b / 4) + k), 2 * (b % 4)), broadcast_byte(3));
        return either(low, shift_left(one_bit(word(0, k), b), 2));
    }
    SLIPSTREAM_INLINE FloatVector scale(int i) const {
        return multiply(d, to_float(add(unsigned_byte(numbers[i / 4], i % 4), broadcast_i(-32))));
    }
};

template <>
struct Packed<IQ4_XS> : PackedWords<IQ4_XS> {
    SLIPSTREAM_INLINE IntVector step(int b, int k) const {
        const IntVector v = word(0, 2 + 4 * b + k % 4), values = place_sign(load_everywhere(kIq4Values));
        return look_up(values, k < 4 ? low_nibble(v) : high_nibble(v));
    }
    SLIPSTREAM_INLINE FloatVector scale(int b) const {
        const IntVector low = bits_of(shift_right(word(0, 1), 4 * b), broadcast_i(15));
        const IntVector high = bits_of(shift_right(word(0, 0), 16 + 2 * b), broadcast_i(3));
        const IntVector number = add(either(low, shift_left(high, 4)), broadcast_i(-32));
        return multiply(low_half(word(0, 0)), to_float(number));
    }
};

template <typename T>
SLIPSTREAM_INLINE void unpack_block(const Packed<T> & packed, int b, Panel & panel) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) {
        store_i(panel.q[b][k], packed.step(b, k));
    }
}

// For many activation rows: a packed chunk as a panel.
template <typename T>
void unpack(const Packed<T> & packed, int n_blocks, Panel & panel) {
    if constexpr (T::columns ==
                  kChunk) { // where a block is in it decides about shifts, which must be constants
#pragma GCC unroll 8
        for (int b = 0; b < kChunk / 32; b++) {
            unpack_block(packed, b, panel);
        }
    } else {
        for (int b = 0; b < n_blocks; b++) {
            unpack_block(packed, b, panel);
        }
    }
    if constexpr (T::integer_scales) {
        for (int pair = 0; pair < kChunk / T::sub_block / 2; pair++) {
            store_i(panel.factor[pair], packed.factors(pair));
        }
        store_f(panel.whole_scale, packed.d());
        if constexpr (T::has_minimum) {
            for (int pair = 0; pair < 4; pair++) {
                store_i(panel.minimum_pair[pair], packed.minima(pair));
            }
            store_f(panel.whole_minimum, packed.minus_d_min());
        }
    } else {
        for (int i = 0; i < n_blocks * 32 / T::sub_block; i++) {
            store_f(panel.block_scale[i], packed.scale(i));
            if constexpr (T::has_minimum) {
                store_f(panel.block_minimum[i], packed.minimum(i));
            }
        }
    }
}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
