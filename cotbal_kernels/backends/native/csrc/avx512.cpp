// The kernels for x86-64 processors with AVX-512 F, BW, DQ and VL (Skylake-X, Zen 4, and later).
#include <immintrin.h>

#include "row_kernel.hpp"

namespace {

struct Avx512 {
    using Float = __m512;
    static constexpr int width = 16;

    static Float set(float x) { return _mm512_set1_ps(x); }
    static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
    static Float fmadd(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
    static Float select_less(Float a, Float b, Float yes, Float no) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
    }
    static Float abs(Float x) { return _mm512_andnot_ps(set(-0.0f), x); }
    static Float copy_sign(Float magnitude, Float sign) {
        return _mm512_or_ps(magnitude, _mm512_and_ps(set(-0.0f), sign));
    }
    static Float low_bits_to_exponent(Float x) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23));
    }

    static Float load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
    static Float load_partial(const float* p, int count) { return _mm512_maskz_loadu_ps(mask(count), p); }
    static void store_partial(float* p, Float x, int count) { _mm512_mask_storeu_ps(p, mask(count), x); }

    static Float load(const Bfloat16* p) {
        return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static void store(Bfloat16* p, Float x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
    static Float load_partial(const Bfloat16* p, int count) {
        return widen(_mm256_maskz_loadu_epi16(mask(count), p));
    }
    static void store_partial(Bfloat16* p, Float x, int count) {
        _mm256_mask_storeu_epi16(p, mask(count), narrow(x));
    }

    static float first(Float x) { return _mm512_cvtss_f32(x); }
    static float reduce_max(Float x) { return _mm512_reduce_max_ps(x); }
    static double reduce_add(Float x) {
        const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
        const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
        return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
    }

   private:
    static __mmask16 mask(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
    static Float widen(__m256i bits) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static __m256i narrow(Float x) {  // to nearest even; NaN stays NaN
        const __m512i bits = _mm512_castps_si512(x);
        const __m512i high = _mm512_srli_epi32(bits, 16);
        const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        const __m512i rounded =
            _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
        const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
        const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(is_nan, rounded, quiet));
    }
};

}  // namespace

void cotbal::row_pass_avx512(const RowPass& pass, std::int64_t begin, std::int64_t end) noexcept {
    row_pass<Avx512>(pass, begin, end);
}

void cotbal::elementwise_avx512(Elementwise function, const float* input, float* output,
                                std::int64_t count) noexcept {
    elementwise<Avx512>(function, input, output, count);
}
