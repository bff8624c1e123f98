// A whole small loss: row weights, row pass and every sum in one call, so that the host is asked once.
#pragma once

#include <cstdint>

#include "row_pass.hpp"

namespace cotbal {

struct PlannedLoss {
    // The rows of a plan [n], ascending; see cotbal_kernels.planning.Plan. No padding.
    const std::int64_t* rows;
    const std::int64_t* targets;
    const std::int64_t* tasks;
    const std::int64_t* samples;
    const void* token_weights;  // [n], float or double; null: ones
    bool token_weights_are_double;
    std::int64_t count;
    std::int64_t positions;
    std::int64_t num_tasks;
    std::int64_t num_samples;
    // Logits [n, columns] of the rows, or [positions, columns] of all; dense. The gradient is alike: the
    // logits themselves, other memory, or null.
    const float* logits;
    float* gradient;
    std::int64_t columns;
    bool of_all_positions;
    const void* task_weights;  // [num_tasks], float or double; null: ones
    bool task_weights_are_double;
    bool mean;          // else the sum
    double normalizer;  // of a mean; not a number: the sum of the weights
    double logit_scale;
    double softcap;  // 0: none
    int threads;
    // Filled: the loss, [num_tasks] and [num_samples] sums of the nll; tokens and hits of each task, tokens
    // of each sample.
    float* loss;
    float* task_loss_sum;
    float* sample_loss_sum;
    std::int64_t* task_tokens;
    std::int64_t* task_correct;
    std::int64_t* sample_tokens;
};

// Whether it was computed. Else something asks for the long way, which explains or settles it: an index out
// of range, an illegal weight or normalizer, no weight at all. Then the outputs hold nothing of use.
bool planned_loss(const PlannedLoss& call, RowPassFunction& row_pass);

}  // namespace cotbal
