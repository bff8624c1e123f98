// AVX-512 as plain loops: the intrinsics that csrc/avx512.cpp uses, each as the instruction set reference
// defines it, so that its lanes, masks and tails can be tested on a processor without AVX-512.
#pragma once

#include <stdint.h>
#include <string.h>

namespace {

struct __m512 {
    float lane[16];
};
struct __m256 {
    float lane[8];
};
struct __m512d {
    double lane[8];
};
struct __m512i {
    uint32_t lane[16];
};
struct __m256i {
    uint16_t lane[16];
};
using __mmask16 = uint16_t;
enum { _CMP_LT_OQ = 17, _CMP_UNORD_Q = 3 };

template <class To, class From>
To cast(const From& from) {
    static_assert(sizeof(To) <= sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <class Vector, class Function>
Vector lanes(int count, Function function) {
    Vector result;
    for (int i = 0; i < count; ++i) {
        result.lane[i] = function(i);
    }
    return result;
}

__m512 _mm512_set1_ps(float x) {
    return lanes<__m512>(16, [&](int) { return x; });
}
__m512i _mm512_set1_epi32(int x) {
    return lanes<__m512i>(16, [&](int) { return static_cast<uint32_t>(x); });
}
__m512 _mm512_castsi512_ps(__m512i a) {
    return cast<__m512>(a);
}
__m512i _mm512_castps_si512(__m512 a) {
    return cast<__m512i>(a);
}
__m256 _mm512_castps512_ps256(__m512 a) {
    return cast<__m256>(a);
}
__m256 _mm512_extractf32x8_ps(__m512 a, int half) {
    return lanes<__m256>(8, [&](int i) { return a.lane[8 * half + i]; });
}
float _mm512_cvtss_f32(__m512 a) {
    return a.lane[0];
}

__m512 _mm512_add_ps(__m512 a, __m512 b) {
    return lanes<__m512>(16, [&](int i) { return a.lane[i] + b.lane[i]; });
}
__m512 _mm512_sub_ps(__m512 a, __m512 b) {
    return lanes<__m512>(16, [&](int i) { return a.lane[i] - b.lane[i]; });
}
__m512 _mm512_mul_ps(__m512 a, __m512 b) {
    return lanes<__m512>(16, [&](int i) { return a.lane[i] * b.lane[i]; });
}
__m512 _mm512_div_ps(__m512 a, __m512 b) {
    return lanes<__m512>(16, [&](int i) { return a.lane[i] / b.lane[i]; });
}
__m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    return lanes<__m512>(16, [&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}
// The second operand where either is NaN.
__m512 _mm512_max_ps(__m512 a, __m512 b) {
    return lanes<__m512>(16, [&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
__m512d _mm512_add_pd(__m512d a, __m512d b) {
    return lanes<__m512d>(8, [&](int i) { return a.lane[i] + b.lane[i]; });
}
__m512d _mm512_cvtps_pd(__m256 a) {
    return lanes<__m512d>(8, [&](int i) { return static_cast<double>(a.lane[i]); });
}

template <class Function>
__m512i bitwise(__m512i a, __m512i b, Function function) {
    return lanes<__m512i>(16, [&](int i) { return function(a.lane[i], b.lane[i]); });
}
__m512i _mm512_and_si512(__m512i a, __m512i b) {
    return bitwise(a, b, [](uint32_t x, uint32_t y) { return x & y; });
}
__m512i _mm512_or_si512(__m512i a, __m512i b) {
    return bitwise(a, b, [](uint32_t x, uint32_t y) { return x | y; });
}
__m512i _mm512_add_epi32(__m512i a, __m512i b) {
    return bitwise(a, b, [](uint32_t x, uint32_t y) { return x + y; });
}
__m512 _mm512_and_ps(__m512 a, __m512 b) {
    return cast<__m512>(_mm512_and_si512(cast<__m512i>(a), cast<__m512i>(b)));
}
__m512 _mm512_or_ps(__m512 a, __m512 b) {
    return cast<__m512>(_mm512_or_si512(cast<__m512i>(a), cast<__m512i>(b)));
}
__m512 _mm512_andnot_ps(__m512 a, __m512 b) {
    return cast<__m512>(
        bitwise(cast<__m512i>(a), cast<__m512i>(b), [](uint32_t x, uint32_t y) { return ~x & y; }));
}
__m512i _mm512_slli_epi32(__m512i a, unsigned bits) {
    return lanes<__m512i>(16, [&](int i) { return a.lane[i] << bits; });
}
__m512i _mm512_srli_epi32(__m512i a, unsigned bits) {
    return lanes<__m512i>(16, [&](int i) { return a.lane[i] >> bits; });
}
__m512i _mm512_cvtepu16_epi32(__m256i a) {
    return lanes<__m512i>(16, [&](int i) { return static_cast<uint32_t>(a.lane[i]); });
}
__m256i _mm512_cvtepi32_epi16(__m512i a) {
    return lanes<__m256i>(16, [&](int i) { return static_cast<uint16_t>(a.lane[i]); });
}

__mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) {
        const bool unordered = a.lane[i] != a.lane[i] || b.lane[i] != b.lane[i];
        const bool set = predicate == _CMP_UNORD_Q ? unordered : !unordered && a.lane[i] < b.lane[i];
        mask |= static_cast<unsigned>(set) << i;
    }
    return static_cast<__mmask16>(mask);
}
__m512 _mm512_mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
    return lanes<__m512>(16, [&](int i) { return (mask >> i & 1) != 0 ? b.lane[i] : a.lane[i]; });
}
__m512i _mm512_mask_blend_epi32(__mmask16 mask, __m512i a, __m512i b) {
    return lanes<__m512i>(16, [&](int i) { return (mask >> i & 1) != 0 ? b.lane[i] : a.lane[i]; });
}

// Masked accesses touch the lanes of their mask only; the sanitizers see it when these do not.
template <class Element>
Element masked_load(__mmask16 mask, const void* p, int i) {
    Element value = 0;
    if ((mask >> i & 1) != 0) {
        memcpy(&value, static_cast<const char*>(p) + i * static_cast<int>(sizeof value), sizeof value);
    }
    return value;
}
template <class Vector>
void masked_store(void* p, __mmask16 mask, const Vector& a) {
    for (int i = 0; i < 16; ++i) {
        if ((mask >> i & 1) != 0) {
            constexpr int size = static_cast<int>(sizeof a.lane[0]);
            memcpy(static_cast<char*>(p) + i * size, &a.lane[i], size);
        }
    }
}
__m512 _mm512_loadu_ps(const void* p) {
    return lanes<__m512>(16, [&](int i) { return masked_load<float>(0xffff, p, i); });
}
__m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
    return lanes<__m512>(16, [&](int i) { return masked_load<float>(mask, p, i); });
}
__m256i _mm256_loadu_si256(const __m256i* p) {
    return lanes<__m256i>(16, [&](int i) { return masked_load<uint16_t>(0xffff, p, i); });
}
__m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* p) {
    return lanes<__m256i>(16, [&](int i) { return masked_load<uint16_t>(mask, p, i); });
}
void _mm512_storeu_ps(void* p, __m512 a) {
    masked_store(p, 0xffff, a);
}
void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 a) {
    masked_store(p, mask, a);
}
void _mm256_storeu_si256(__m256i* p, __m256i a) {
    masked_store(p, 0xffff, a);
}
void _mm256_mask_storeu_epi16(void* p, __mmask16 mask, __m256i a) {
    masked_store(p, mask, a);
}

float _mm512_reduce_max_ps(__m512 a) {
    float result = a.lane[0];
    for (int i = 1; i < 16; ++i) {
        result = result > a.lane[i] ? result : a.lane[i];
    }
    return result;
}
double _mm512_reduce_add_pd(__m512d a) {
    double result = 0.0;
    for (int i = 0; i < 8; ++i) {
        result += a.lane[i];
    }
    return result;
}

}  // namespace
