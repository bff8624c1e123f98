// The problem one row pass solves, and the entry point each instruction set gives to it.
//
// Nothing here has a body: this header is read by translation units compiled for different processors, and
// an inline function emitted by one of them could be picked by the linker for all.
#pragma once

#include <cstdint>

namespace cotbal {

struct Bfloat16 {
    std::uint16_t bits;
};

// What a row pass computes beyond the nll; each pointer has one entry per row [n], and may be null.
struct RowTerms {
    bool present;  // without, nothing here is looked at
    double label_smoothing;
    double lse_square_scale;
    const float* softmax_shift;
    const float* target_shift;
    const float* entropy_scale;
    float* lse;
    float* mean;
    float* entropy;
    float* peak;
};

struct RowPass {
    const void* logits;          // [., columns], float or Bfloat16, unit column stride
    std::int64_t logits_stride;  // elements from one row to the next
    void* gradient;              // like logits and possibly the same memory; null: not wanted
    std::int64_t gradient_stride;
    std::int64_t columns;
    const std::int64_t* rows;     // [n] row of logits of each output; null: 0 .. n-1
    const std::int64_t* targets;  // [n] true class, -1: padding
    const float* row_scale;       // [n], null: 1
    double logit_scale;
    double softcap;  // 0: none
    float* nll;      // [n]
    bool* hits;      // [n]
    bool is_bfloat16;
    RowTerms terms;
};

enum class Elementwise { exp, tanh };

// Computes outputs begin .. end-1 of the pass.
using RowPassFunction = void(const RowPass& pass, std::int64_t begin, std::int64_t end) noexcept;
// The vector functions alone, so that their accuracy can be tested value by value.
using ElementwiseFunction = void(Elementwise function, const float* input, float* output,
                                 std::int64_t count) noexcept;

RowPassFunction row_pass_portable, row_pass_avx2, row_pass_avx512;
ElementwiseFunction elementwise_portable, elementwise_avx2, elementwise_avx512;

}  // namespace cotbal
