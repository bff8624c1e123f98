// The problem one matrix product solves, and the entry points each instruction set gives to it.
//
// Nothing here has a body, for the reason given in row_pass.hpp.
#pragma once

#include <cstdint>

namespace cotbal {

// One factor of a product: `lanes` vectors along the inner dimension, which are the rows of the left factor
// and the columns of the right one. One of the two strides is 1.
struct Factor {
    const void* data;  // float or Bfloat16
    std::int64_t lanes;
    std::int64_t lane_stride;   // elements from one lane to the next
    std::int64_t inner_stride;  // elements from one inner index to the next
    bool is_bfloat16;
};

// out[i, j] (+)= sum over k of left[i, k] right[j, k], summed in float.
struct Product {
    Factor left;
    Factor right;
    std::int64_t inner;       // at least 1
    void* out;                // [left.lanes, right.lanes], float or Bfloat16, unit column stride
    std::int64_t out_stride;  // elements from one row to the next
    bool out_is_bfloat16;     // the whole sum is rounded, once
    bool accumulate;          // add to what `out` holds; not with Bfloat16
    float* shared;            // ProductPlan::shared_size floats
    float* local;             // ProductPlan::local_size floats for each thread
};

// How a product is cut up. The inner dimension is taken slab by slab, and each slab in two phases: panels of
// one factor are packed for all threads, then the product is made piece by piece, every thread packing panels
// of the other factor for itself.
struct ProductPlan {
    bool left_is_shared;
    std::int64_t block_length;   // inner indices of one panel
    std::int64_t slab;           // inner indices of one slab: whole blocks
    std::int64_t shared_panels;  // pieces of the packing phase
    std::int64_t piece_lanes;    // lanes of the other factor in a piece of the multiplying phase
    std::int64_t pieces;
    std::int64_t shared_size;
    std::int64_t local_size;
};

using PlanProductFunction = ProductPlan(const Product& product, int threads) noexcept;
// Packs shared panels begin .. end-1 for the slab that starts at inner index `first`.
using PackSharedFunction = void(const Product& product, const ProductPlan& plan, std::int64_t first,
                                std::int64_t begin, std::int64_t end) noexcept;
// Multiplies pieces begin .. end-1 for the slab that starts at `first`, with panels of its own at `local`.
using MultiplyFunction = void(const Product& product, const ProductPlan& plan, std::int64_t first,
                              std::int64_t begin, std::int64_t end, float* local) noexcept;

PlanProductFunction plan_product_portable, plan_product_avx2, plan_product_avx512;
PackSharedFunction pack_shared_portable, pack_shared_avx2, pack_shared_avx512;
MultiplyFunction multiply_portable, multiply_avx2, multiply_avx512;

}  // namespace cotbal
