// The kernels for any processor: four floats in the compiler's own vectors, which are SSE2 or NEON
// registers where those are part of the base instruction set, and plain scalars elsewhere.
#include "row_kernel.hpp"

namespace {

struct Portable {
    typedef float Float __attribute__((vector_size(16)));
    typedef uint32_t Bits __attribute__((vector_size(16)));
    typedef int32_t Mask __attribute__((vector_size(16)));
    static constexpr int width = 4;

    static Float set(float x) { return Float{x, x, x, x}; }
    static Float add(Float a, Float b) { return a + b; }
    static Float sub(Float a, Float b) { return a - b; }
    static Float mul(Float a, Float b) { return a * b; }
    static Float div(Float a, Float b) { return a / b; }
    static Float fmadd(Float a, Float b, Float c) { return a * b + c; }
    static Float max(Float a, Float b) { return a > b ? a : b; }
    static Float select_less(Float a, Float b, Float yes, Float no) { return a < b ? yes : no; }
    static Float abs(Float x) { return as_float(as_bits(x) & 0x7fffffffu); }
    static Float copy_sign(Float magnitude, Float sign) {
        return as_float(as_bits(magnitude) | (as_bits(sign) & 0x80000000u));
    }
    static Float low_bits_to_exponent(Float x) { return as_float(as_bits(x) << 23); }

    static Float load(const float* p) {
        Float x;
        memcpy(&x, p, sizeof x);
        return x;
    }
    static void store(float* p, Float x) { memcpy(p, &x, sizeof x); }
    static Float load_partial(const float* p, int count) {
        Float x = set(0.0f);
        memcpy(&x, p, static_cast<size_t>(count) * sizeof(float));
        return x;
    }
    static void store_partial(float* p, Float x, int count) {
        memcpy(p, &x, static_cast<size_t>(count) * sizeof(float));
    }

    static Float load(const Bfloat16* p) { return load_partial(p, width); }
    static void store(Bfloat16* p, Float x) { store_partial(p, x, width); }
    static Float load_partial(const Bfloat16* p, int count) {
        Bits bits = {};
        for (int j = 0; j < count; ++j) {
            bits[j] = static_cast<uint32_t>(p[j].bits) << 16;
        }
        return as_float(bits);
    }
    static void store_partial(Bfloat16* p, Float x, int count) {
        const Bits bits = as_bits(x);
        const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const Bits quiet = (bits >> 16) | 0x40u;
        const Bits result = x != x ? quiet : rounded;
        for (int j = 0; j < count; ++j) {
            p[j].bits = static_cast<uint16_t>(result[j]);
        }
    }

    static float first(Float x) { return x[0]; }
    static float reduce_max(Float x) {
        const float low = x[0] > x[1] ? x[0] : x[1];
        const float high = x[2] > x[3] ? x[2] : x[3];
        return low > high ? low : high;
    }
    static double reduce_add(Float x) {
        return (static_cast<double>(x[0]) + static_cast<double>(x[1])) +
               (static_cast<double>(x[2]) + static_cast<double>(x[3]));
    }

   private:
    static Bits as_bits(Float x) {
        Bits bits;
        memcpy(&bits, &x, sizeof bits);
        return bits;
    }
    static Float as_float(Bits bits) {
        Float x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
};

}  // namespace

void cotbal::row_pass_portable(const RowPass& pass, std::int64_t begin, std::int64_t end) noexcept {
    row_pass<Portable>(pass, begin, end);
}

void cotbal::elementwise_portable(Elementwise function, const float* input, float* output,
                                  std::int64_t count) noexcept {
    elementwise<Portable>(function, input, output, count);
}
