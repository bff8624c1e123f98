// The kernels for x86-64 processors with AVX2 and FMA (Haswell, Zen, and later).
#include <immintrin.h>

#include "row_kernel.hpp"

namespace {

struct Avx2 {
    using Float = __m256;
    static constexpr int width = 8;

    static Float set(float x) { return _mm256_set1_ps(x); }
    static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
    static Float fmadd(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
    static Float select_less(Float a, Float b, Float yes, Float no) {
        return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
    }
    static Float abs(Float x) { return _mm256_andnot_ps(set(-0.0f), x); }
    static Float copy_sign(Float magnitude, Float sign) {
        return _mm256_or_ps(magnitude, _mm256_and_ps(set(-0.0f), sign));
    }
    static Float low_bits_to_exponent(Float x) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23));
    }

    static Float load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
    static Float load_partial(const float* p, int count) { return _mm256_maskload_ps(p, mask(count)); }
    static void store_partial(float* p, Float x, int count) { _mm256_maskstore_ps(p, mask(count), x); }

    static Float load(const Bfloat16* p) {
        return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static void store(Bfloat16* p, Float x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x)); }
    static Float load_partial(const Bfloat16* p, int count) {
        __m128i bits = _mm_setzero_si128();
        memcpy(&bits, p, static_cast<size_t>(count) * sizeof(Bfloat16));
        return widen(bits);
    }
    static void store_partial(Bfloat16* p, Float x, int count) {
        const __m128i bits = narrow(x);
        memcpy(p, &bits, static_cast<size_t>(count) * sizeof(Bfloat16));
    }

    static float first(Float x) { return _mm256_cvtss_f32(x); }
    static float reduce_max(Float x) {
        __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        y = _mm_max_ps(y, _mm_movehl_ps(y, y));
        y = _mm_max_ss(y, _mm_movehdup_ps(y));
        return _mm_cvtss_f32(y);
    }
    static double reduce_add(Float x) {
        const __m256d sum = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                                          _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
        __m128d y = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
        y = _mm_add_sd(y, _mm_unpackhi_pd(y, y));
        return _mm_cvtsd_f64(y);
    }

   private:
    static __m256i mask(int count) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static Float widen(__m128i bits) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    static __m128i narrow(Float x) {  // to nearest even; NaN stays NaN
        const __m256i bits = _mm256_castps_si256(x);
        const __m256i high = _mm256_srli_epi32(bits, 16);
        const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        const __m256i rounded =
            _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
        const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        const __m256i result = _mm256_blendv_epi8(rounded, quiet, is_nan);
        return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
    }
};

}  // namespace

void cotbal::row_pass_avx2(const RowPass& pass, std::int64_t begin, std::int64_t end) noexcept {
    row_pass<Avx2>(pass, begin, end);
}

void cotbal::elementwise_avx2(Elementwise function, const float* input, float* output,
                              std::int64_t count) noexcept {
    elementwise<Avx2>(function, input, output, count);
}
