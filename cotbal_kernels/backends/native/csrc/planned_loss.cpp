#include "planned_loss.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "threads.hpp"

namespace cotbal {
namespace {

bool all_within(const std::int64_t* values, std::int64_t count, std::int64_t bound) {
    return std::all_of(values, values + count,
                       [bound](std::int64_t value) { return value >= 0 && value < bound; });
}

bool indices_are_legal(const PlannedLoss& call) {
    for (std::int64_t i = 1; i < call.count; ++i) {
        if (call.rows[i] <= call.rows[i - 1]) {
            return false;
        }
    }
    return all_within(call.rows, call.count, call.positions) &&
           all_within(call.targets, call.count, call.columns) &&
           all_within(call.tasks, call.count, call.num_tasks) &&
           all_within(call.samples, call.count, call.num_samples);
}

double at(const void* values, bool are_double, std::int64_t index) {
    return are_double ? static_cast<const double*>(values)[index]
                      : static_cast<double>(static_cast<const float*>(values)[index]);
}

bool is_weight(double value) {
    return std::isfinite(value) && value >= 0;
}

// The weight of a row as torch would round it: in double precision where one of its factors is.
double row_weight(const PlannedLoss& call, std::int64_t row) {
    const double of_task = call.task_weights == nullptr
                               ? 1.0
                               : at(call.task_weights, call.task_weights_are_double, call.tasks[row]);
    if (call.token_weights == nullptr) {
        return of_task;
    }
    const double product = of_task * at(call.token_weights, call.token_weights_are_double, row);
    const bool is_double =
        call.token_weights_are_double || (call.task_weights != nullptr && call.task_weights_are_double);
    return is_double ? product : static_cast<double>(static_cast<float>(product));
}

// Rows of the gradient that no target is in.
void clear_other_rows(const PlannedLoss& call) {
    std::int64_t begin = 0;
    for (std::int64_t i = 0; i <= call.count; ++i) {
        const std::int64_t end = i < call.count ? call.rows[i] : call.positions;
        std::fill(call.gradient + begin * call.columns, call.gradient + end * call.columns, 0.0F);
        begin = end + 1;
    }
}

struct Job {
    const RowPass& pass;
    RowPassFunction& function;
};

// Rows whose work is short are taken several at a time: about this many columns a piece.
constexpr std::int64_t columns_per_piece = 8192;

}  // namespace

bool planned_loss(const PlannedLoss& call, RowPassFunction& row_pass) {
    if (!indices_are_legal(call)) {
        return false;
    }
    if (call.task_weights != nullptr) {
        for (std::int64_t task = 0; task < call.num_tasks; ++task) {
            if (!is_weight(at(call.task_weights, call.task_weights_are_double, task))) {
                return false;
            }
        }
    }
    const auto count = static_cast<std::size_t>(call.count);
    std::vector<double> weights(count);
    double total = 0;
    for (std::size_t i = 0; i < count; ++i) {
        weights[i] = row_weight(call, static_cast<std::int64_t>(i));
        total += weights[i];
    }
    const double divisor = !call.mean ? 1.0 : std::isnan(call.normalizer) ? total : call.normalizer;
    if (!(divisor > 0) || std::isinf(divisor)) {
        return false;
    }
    std::vector<float> scale(count);
    for (std::size_t i = 0; i < count; ++i) {
        scale[i] = static_cast<float>(1 / divisor * weights[i]);
    }
    if (call.of_all_positions && call.gradient != nullptr) {
        clear_other_rows(call);
    }

    std::vector<float> nll(count);
    const auto hits = std::make_unique<bool[]>(count);
    RowPass pass{};
    pass.logits = call.logits;
    pass.logits_stride = call.columns;
    pass.gradient = call.gradient;
    pass.gradient_stride = call.columns;
    pass.columns = call.columns;
    pass.rows = call.of_all_positions ? call.rows : nullptr;
    pass.targets = call.targets;
    pass.row_scale = scale.data();
    pass.logit_scale = call.logit_scale;
    pass.softcap = call.softcap;
    pass.nll = nll.data();
    pass.hits = hits.get();
    Job job{pass, row_pass};
    const std::int64_t grain = call.columns < columns_per_piece ? columns_per_piece / call.columns : 1;
    parallel_for(call.count, grain, call.threads, &job,
                 [](void* context, std::int64_t begin, std::int64_t end) noexcept {
                     const Job& part = *static_cast<Job*>(context);
                     part.function(part.pass, begin, end);
                 });

    // Sums of tasks, then of samples.
    std::vector<double> sums(static_cast<std::size_t>(call.num_tasks + call.num_samples));
    double* const of_task = sums.data();
    double* const of_sample = of_task + call.num_tasks;
    std::fill_n(call.task_tokens, call.num_tasks, 0);
    std::fill_n(call.task_correct, call.num_tasks, 0);
    std::fill_n(call.sample_tokens, call.num_samples, 0);
    double weighted = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t task = call.tasks[i];
        const std::int64_t sample = call.samples[i];
        const auto loss = static_cast<double>(nll[i]);
        weighted += weights[i] * loss;
        of_task[task] += loss;
        of_sample[sample] += loss;
        ++call.task_tokens[task];
        ++call.sample_tokens[sample];
        call.task_correct[task] += hits[i] ? 1 : 0;
    }
    *call.loss = static_cast<float>(weighted / divisor);
    std::transform(of_task, of_sample, call.task_loss_sum,
                   [](double sum) { return static_cast<float>(sum); });
    std::transform(of_sample, of_sample + call.num_samples, call.sample_loss_sum,
                   [](double sum) { return static_cast<float>(sum); });
    return true;
}

}  // namespace cotbal
