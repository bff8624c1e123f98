// AVX-512 without AVX-512: the intrinsics that csrc/avx512.cpp uses, over the compiler's own vectors, each as
// the instruction set reference defines it, so that lanes, masks and tails can be tested on any processor.
#pragma once

#include <stdint.h>
#include <string.h>

namespace {

typedef float __m512 __attribute__((vector_size(64)));
typedef double __m512d __attribute__((vector_size(64)));
typedef uint32_t __m512i __attribute__((vector_size(64)));
typedef float __m256 __attribute__((vector_size(32)));
typedef uint16_t __m256i __attribute__((vector_size(32)));
using __mmask16 = uint16_t;
enum { _CMP_LT_OQ = 17, _CMP_UNORD_Q = 3 };

__m512 _mm512_set1_ps(float x) {
    return x - __m512{};
}
__m512i _mm512_set1_epi32(int x) {
    return static_cast<uint32_t>(x) + __m512i{};
}
__m512 _mm512_castsi512_ps(__m512i a) {
    return (__m512)a;
}
__m512i _mm512_castps_si512(__m512 a) {
    return (__m512i)a;
}
float _mm512_cvtss_f32(__m512 a) {
    return a[0];
}

__m256 _mm512_extractf32x8_ps(__m512 a, int half) {
    __m256 result;
    memcpy(&result, reinterpret_cast<const char*>(&a) + 32 * half, sizeof result);
    return result;
}
__m256 _mm512_castps512_ps256(__m512 a) {
    return _mm512_extractf32x8_ps(a, 0);
}

__m512 _mm512_add_ps(__m512 a, __m512 b) {
    return a + b;
}
__m512 _mm512_sub_ps(__m512 a, __m512 b) {
    return a - b;
}
__m512 _mm512_mul_ps(__m512 a, __m512 b) {
    return a * b;
}
__m512 _mm512_div_ps(__m512 a, __m512 b) {
    return a / b;
}
__m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    for (int i = 0; i < 16; ++i) {
        a[i] = __builtin_fmaf(a[i], b[i], c[i]);
    }
    return a;
}
// The second operand where either is NaN.
__m512 _mm512_max_ps(__m512 a, __m512 b) {
    return a > b ? a : b;
}
__m512d _mm512_add_pd(__m512d a, __m512d b) {
    return a + b;
}
__m512d _mm512_cvtps_pd(__m256 a) {
    return __builtin_convertvector(a, __m512d);
}

__m512i _mm512_and_si512(__m512i a, __m512i b) {
    return a & b;
}
__m512i _mm512_or_si512(__m512i a, __m512i b) {
    return a | b;
}
__m512i _mm512_add_epi32(__m512i a, __m512i b) {
    return a + b;
}
__m512i _mm512_slli_epi32(__m512i a, unsigned bits) {
    return a << bits;
}
__m512i _mm512_srli_epi32(__m512i a, unsigned bits) {
    return a >> bits;
}
__m512 _mm512_and_ps(__m512 a, __m512 b) {
    return (__m512)((__m512i)a & (__m512i)b);
}
__m512 _mm512_or_ps(__m512 a, __m512 b) {
    return (__m512)((__m512i)a | (__m512i)b);
}
__m512 _mm512_andnot_ps(__m512 a, __m512 b) {
    return (__m512)(~(__m512i)a & (__m512i)b);
}
__m512i _mm512_cvtepu16_epi32(__m256i a) {
    return __builtin_convertvector(a, __m512i);
}
__m256i _mm512_cvtepi32_epi16(__m512i a) {
    return __builtin_convertvector(a, __m256i);
}

__mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) {
        const bool unordered = a[i] != a[i] || b[i] != b[i];
        const bool set = predicate == _CMP_UNORD_Q ? unordered : !unordered && a[i] < b[i];
        mask |= static_cast<unsigned>(set) << i;
    }
    return static_cast<__mmask16>(mask);
}
template <class Vector>
Vector blend(__mmask16 mask, Vector a, Vector b) {
    for (int i = 0; i < 16; ++i) {
        a[i] = (mask >> i & 1) != 0 ? b[i] : a[i];
    }
    return a;
}
__m512 _mm512_mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
    return blend(mask, a, b);
}
__m512i _mm512_mask_blend_epi32(__mmask16 mask, __m512i a, __m512i b) {
    return blend(mask, a, b);
}

// Masked accesses touch the lanes of their mask only; the sanitizers see it when these do not.
template <class Vector>
Vector masked_load(__mmask16 mask, const void* p) {
    Vector result = {};
    for (int i = 0; i < 16; ++i) {
        if ((mask >> i & 1) != 0) {
            constexpr int size = sizeof(Vector) / 16;
            memcpy(reinterpret_cast<char*>(&result) + i * size, static_cast<const char*>(p) + i * size, size);
        }
    }
    return result;
}
template <class Vector>
void masked_store(void* p, __mmask16 mask, Vector a) {
    for (int i = 0; i < 16; ++i) {
        if ((mask >> i & 1) != 0) {
            constexpr int size = sizeof(Vector) / 16;
            memcpy(static_cast<char*>(p) + i * size, reinterpret_cast<const char*>(&a) + i * size, size);
        }
    }
}
__m512 _mm512_loadu_ps(const void* p) {
    return masked_load<__m512>(0xffff, p);
}
__m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
    return masked_load<__m512>(mask, p);
}
__m256i _mm256_loadu_si256(const __m256i* p) {
    return masked_load<__m256i>(0xffff, p);
}
__m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* p) {
    return masked_load<__m256i>(mask, p);
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
    float result = a[0];
    for (int i = 1; i < 16; ++i) {
        result = result > a[i] ? result : a[i];
    }
    return result;
}
double _mm512_reduce_add_pd(__m512d a) {
    double result = 0.0;
    for (int i = 0; i < 8; ++i) {
        result += a[i];
    }
    return result;
}

}  // namespace
