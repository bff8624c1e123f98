// Python's way in: tensors arrive through DLPack, are checked here down to the last index, and the pass runs
// with the interpreter lock released. Nothing is converted or copied.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "dispatch.hpp"
#include "planned_loss.hpp"
#include "row_pass.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace {

using Tensor = nb::ndarray<nb::device::cpu>;
using ReadOnly = nb::ndarray<nb::ro, nb::device::cpu>;

constexpr nb::dlpack::dtype bfloat16{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat), 16, 1};

[[noreturn]] void refuse(const std::string& message) {
    throw nb::value_error(message.c_str());
}

template <class Array>
void check_vector(const Array& array, const char* name, nb::dlpack::dtype dtype, const char* dtype_name,
                  std::int64_t length) {
    if (array.ndim() != 1 || static_cast<std::int64_t>(array.shape(0)) != length) {
        refuse(std::string(name) + " must have the shape [" + std::to_string(length) + "]");
    }
    if (array.dtype() != dtype) {
        refuse(std::string(name) + " must be " + dtype_name);
    }
    if (length > 1 && array.stride(0) != 1) {
        refuse(std::string(name) + " must be contiguous");
    }
}

// A row's worth of floats for each output; null where there are none.
template <class Value, class Array>
Value* vector_of(const std::optional<Array>& array, const char* name, std::int64_t length) {
    if (!array) {
        return nullptr;
    }
    check_vector(*array, name, nb::dtype<float>(), "float32", length);
    return static_cast<Value*>(array->data());
}

template <class Array>
void check_matrix(const Array& array, const char* name) {
    if (array.ndim() != 2 || array.shape(1) == 0) {
        refuse(std::string(name) + " must have two dimensions and at least one column");
    }
    if (array.dtype() != nb::dtype<float>() && array.dtype() != bfloat16) {
        refuse(std::string(name) + " must be float32 or bfloat16");
    }
    if (array.shape(1) > 1 && array.stride(1) != 1) {
        refuse(std::string(name) + " must have unit stride along its columns");
    }
}

// A stride that no index uses says nothing, and torch may give any number for it.
template <class Array>
std::int64_t row_stride(const Array& array) {
    return array.shape(0) > 1 ? array.stride(0) : static_cast<std::int64_t>(array.shape(1));
}

void check_indices(const std::int64_t* values, std::int64_t count, std::int64_t least, std::int64_t bound,
                   const char* name) {
    for (std::int64_t i = 0; i < count; ++i) {
        if (values[i] < least || values[i] >= bound) {
            refuse(std::string(name) + "[" + std::to_string(i) + "] = " + std::to_string(values[i]) +
                   " is outside " + std::to_string(least) + " .. " + std::to_string(bound - 1));
        }
    }
}

const cotbal::InstructionSet& instruction_set(std::string_view name) {
    const cotbal::InstructionSet* set = cotbal::find_instruction_set(name);
    if (set != nullptr && set->supported) {
        return *set;
    }
    std::string usable;
    for (const cotbal::InstructionSet& other : cotbal::instruction_sets()) {
        if (other.supported) {
            usable += (usable.empty() ? "" : ", ") + std::string(other.name);
        }
    }
    refuse("instruction set '" + std::string(name) +
           (set == nullptr ? "' is not in this build" : "' is not supported by this processor") +
           "; usable here: " + usable);
}

struct Job {
    const cotbal::RowPass& pass;
    cotbal::RowPassFunction* function;
};

// Outputs whose rows are short are taken several at a time: about this many columns a piece.
constexpr std::int64_t columns_per_piece = 8192;

void row_pass(const ReadOnly& logits, const ReadOnly& targets, const std::optional<ReadOnly>& rows,
              const std::optional<Tensor>& gradient, const std::optional<ReadOnly>& row_scale,
              double logit_scale, double softcap, const Tensor& nll, const Tensor& hits, int threads,
              std::string_view isa, double label_smoothing, double lse_square_scale,
              const std::optional<ReadOnly>& softmax_shift, const std::optional<ReadOnly>& target_shift,
              const std::optional<ReadOnly>& entropy_scale, const std::optional<Tensor>& lse,
              const std::optional<Tensor>& mean, const std::optional<Tensor>& entropy,
              const std::optional<Tensor>& peak) {
    const cotbal::InstructionSet& set = instruction_set(isa);
    check_matrix(logits, "logits");
    const auto total_rows = static_cast<std::int64_t>(logits.shape(0));
    const auto columns = static_cast<std::int64_t>(logits.shape(1));
    const auto count = static_cast<std::int64_t>(nll.ndim() == 1 ? nll.shape(0) : 0);
    check_vector(nll, "nll", nb::dtype<float>(), "float32", count);
    check_vector(hits, "hits", nb::dtype<bool>(), "bool", count);
    check_vector(targets, "targets", nb::dtype<std::int64_t>(), "int64", count);
    const auto* target_values = static_cast<const std::int64_t*>(targets.data());
    check_indices(target_values, count, -1, columns, "targets");

    cotbal::RowPass pass{};
    pass.logits = logits.data();
    pass.logits_stride = row_stride(logits);
    pass.columns = columns;
    pass.targets = target_values;
    pass.logit_scale = logit_scale;
    pass.softcap = softcap;
    pass.nll = static_cast<float*>(nll.data());
    pass.hits = static_cast<bool*>(hits.data());
    pass.is_bfloat16 = logits.dtype() == bfloat16;
    if (rows) {
        check_vector(*rows, "rows", nb::dtype<std::int64_t>(), "int64", count);
        pass.rows = static_cast<const std::int64_t*>(rows->data());
        check_indices(pass.rows, count, 0, total_rows, "rows");
    } else if (count > total_rows) {
        refuse("targets must not be longer than logits has rows");
    }
    if (gradient) {
        check_matrix(*gradient, "gradient");
        if (gradient->shape(0) != logits.shape(0) || gradient->shape(1) != logits.shape(1) ||
            gradient->dtype() != logits.dtype()) {
            refuse("gradient must have the shape and dtype of logits");
        }
        pass.gradient = gradient->data();
        pass.gradient_stride = row_stride(*gradient);
        if (pass.gradient_stride < columns) {
            refuse("gradient must have rows that do not overlap");
        }
    }
    if (row_scale) {
        check_vector(*row_scale, "row_scale", nb::dtype<float>(), "float32", count);
        pass.row_scale = static_cast<const float*>(row_scale->data());
    }
    pass.terms.label_smoothing = label_smoothing;
    pass.terms.lse_square_scale = lse_square_scale;
    pass.terms.softmax_shift = vector_of<const float>(softmax_shift, "softmax_shift", count);
    pass.terms.target_shift = vector_of<const float>(target_shift, "target_shift", count);
    pass.terms.entropy_scale = vector_of<const float>(entropy_scale, "entropy_scale", count);
    pass.terms.lse = vector_of<float>(lse, "lse", count);
    pass.terms.mean = vector_of<float>(mean, "mean", count);
    pass.terms.entropy = vector_of<float>(entropy, "entropy", count);
    pass.terms.peak = vector_of<float>(peak, "peak", count);
    pass.terms.present = label_smoothing != 0.0 || lse_square_scale != 0.0 || softmax_shift || target_shift ||
                         entropy_scale || lse || mean || entropy || peak;
    if (!(softcap >= 0.0) || std::isinf(softcap)) {
        refuse("softcap must be positive and finite, or 0 for none");
    }
    if (threads < 1) {
        refuse("threads must be at least 1");
    }

    Job job{pass, set.row_pass};
    const std::int64_t grain = columns < columns_per_piece ? columns_per_piece / columns : 1;
    nb::gil_scoped_release unlocked;
    cotbal::parallel_for(count, grain, threads, &job,
                         [](void* context, std::int64_t begin, std::int64_t end) noexcept {
                             const Job& part = *static_cast<Job*>(context);
                             part.function(part.pass, begin, end);
                         });
}

// The rows of a plan, checked and brought here once; torch's memory, which is kept alive.
class PlannedRows {
   public:
    PlannedRows(ReadOnly rows, ReadOnly targets, ReadOnly tasks, ReadOnly samples,
                std::optional<ReadOnly> token_weights, std::int64_t positions, std::int64_t num_tasks,
                std::int64_t num_samples)
        : rows_(std::move(rows)),
          targets_(std::move(targets)),
          tasks_(std::move(tasks)),
          samples_(std::move(samples)),
          token_weights_(std::move(token_weights)) {
        const auto count = static_cast<std::int64_t>(rows_.ndim() == 1 ? rows_.shape(0) : 0);
        check_vector(rows_, "rows", nb::dtype<std::int64_t>(), "int64", count);
        check_vector(targets_, "targets", nb::dtype<std::int64_t>(), "int64", count);
        check_vector(tasks_, "tasks", nb::dtype<std::int64_t>(), "int64", count);
        check_vector(samples_, "samples", nb::dtype<std::int64_t>(), "int64", count);
        call_.rows = static_cast<const std::int64_t*>(rows_.data());
        call_.targets = static_cast<const std::int64_t*>(targets_.data());
        call_.tasks = static_cast<const std::int64_t*>(tasks_.data());
        call_.samples = static_cast<const std::int64_t*>(samples_.data());
        if (token_weights_) {
            call_.token_weights_are_double = token_weights_->dtype() == nb::dtype<double>();
            check_vector(*token_weights_, "token_weights",
                         call_.token_weights_are_double ? nb::dtype<double>() : nb::dtype<float>(),
                         "float32 or float64", count);
            call_.token_weights = token_weights_->data();
        }
        if (positions < 0 || num_tasks < 1 || num_samples < 0) {
            refuse("positions, num_tasks and num_samples must be sizes");
        }
        call_.count = count;
        call_.positions = positions;
        call_.num_tasks = num_tasks;
        call_.num_samples = num_samples;
    }

    // Addresses of dense float32 tensors, of whose sizes the caller is sure: asking torch for each through
    // DLPack takes longer than the whole computation. A null address: none.
    bool loss(std::uintptr_t logits, std::uintptr_t gradient, std::int64_t columns, bool of_all_positions,
              std::uintptr_t task_weights, bool task_weights_are_double, bool mean, double normalizer,
              double logit_scale, double softcap, int threads, std::uintptr_t loss,
              std::uintptr_t task_loss_sum, std::uintptr_t task_tokens, std::uintptr_t task_correct,
              std::uintptr_t sample_loss_sum, std::uintptr_t sample_tokens) const {
        const char* const forced = std::getenv("COTBAL_CPU_ISA");
        const cotbal::InstructionSet* set = cotbal::find_instruction_set(forced == nullptr ? "" : forced);
        if (set == nullptr || !set->supported) {
            return false;
        }
        cotbal::PlannedLoss call = call_;
        call.logits = reinterpret_cast<const float*>(logits);
        call.gradient = reinterpret_cast<float*>(gradient);
        call.columns = columns;
        call.of_all_positions = of_all_positions;
        call.task_weights = reinterpret_cast<const void*>(task_weights);
        call.task_weights_are_double = task_weights_are_double;
        call.mean = mean;
        call.normalizer = normalizer;
        call.logit_scale = logit_scale;
        call.softcap = softcap;
        call.threads = threads;
        call.loss = reinterpret_cast<float*>(loss);
        call.task_loss_sum = reinterpret_cast<float*>(task_loss_sum);
        call.task_tokens = reinterpret_cast<std::int64_t*>(task_tokens);
        call.task_correct = reinterpret_cast<std::int64_t*>(task_correct);
        call.sample_loss_sum = reinterpret_cast<float*>(sample_loss_sum);
        call.sample_tokens = reinterpret_cast<std::int64_t*>(sample_tokens);
        nb::gil_scoped_release unlocked;
        return cotbal::planned_loss(call, *set->row_pass);
    }

   private:
    ReadOnly rows_, targets_, tasks_, samples_;
    std::optional<ReadOnly> token_weights_;
    cotbal::PlannedLoss call_{};
};

void elementwise(std::string_view function, const ReadOnly& input, const Tensor& output,
                 std::string_view isa) {
    const cotbal::InstructionSet& set = instruction_set(isa);
    const auto count = static_cast<std::int64_t>(input.ndim() == 1 ? input.shape(0) : 0);
    check_vector(input, "input", nb::dtype<float>(), "float32", count);
    check_vector(output, "output", nb::dtype<float>(), "float32", count);
    if (function != "exp" && function != "tanh") {
        refuse("function must be 'exp' or 'tanh'");
    }
    set.elementwise(function == "exp" ? cotbal::Elementwise::exp : cotbal::Elementwise::tanh,
                    static_cast<const float*>(input.data()), static_cast<float*>(output.data()), count);
}

}  // namespace

NB_MODULE(_native, module) {
    cotbal::watch_forks();
    module.def(
        "instruction_sets",
        [] {
            nb::dict sets;
            for (const cotbal::InstructionSet& set : cotbal::instruction_sets()) {
                sets[set.name] = set.supported;
            }
            return sets;
        },
        "The instruction sets of this build, least first, and whether this processor supports each.");
    module.def(
        "resolve", [](std::string_view isa) { return instruction_set(isa).name; }, nb::arg("isa"),
        "The instruction set that `isa` asks for ('' for the best); ValueError where it cannot run.");
    module.def("thread_source", &cotbal::thread_source, "'openmp' or 'std::thread'.");
    module.def(
        "row_pass", &row_pass, nb::arg("logits").noconvert(), nb::arg("targets").noconvert(),
        nb::arg("rows").noconvert().none(), nb::arg("gradient").noconvert().none(),
        nb::arg("row_scale").noconvert().none(), nb::arg("logit_scale"), nb::arg("softcap"),
        nb::arg("nll").noconvert(), nb::arg("hits").noconvert(), nb::arg("threads"), nb::arg("isa"),
        nb::arg("label_smoothing") = 0.0, nb::arg("lse_square_scale") = 0.0,
        nb::arg("softmax_shift").noconvert().none() = nb::none(),
        nb::arg("target_shift").noconvert().none() = nb::none(),
        nb::arg("entropy_scale").noconvert().none() = nb::none(),
        nb::arg("lse").noconvert().none() = nb::none(), nb::arg("mean").noconvert().none() = nb::none(),
        nb::arg("entropy").noconvert().none() = nb::none(), nb::arg("peak").noconvert().none() = nb::none(),
        "Fill nll, hits and, where given, gradient, lse, mean, entropy and peak; see "
        "cotbal_kernels.backends.native.backend.");
    nb::class_<PlannedRows>(module, "PlannedRows",
                            "The rows of a plan, for small losses computed in one call.")
        .def(nb::init<ReadOnly, ReadOnly, ReadOnly, ReadOnly, std::optional<ReadOnly>, std::int64_t,
                      std::int64_t, std::int64_t>(),
             nb::arg("rows").noconvert(), nb::arg("targets").noconvert(), nb::arg("tasks").noconvert(),
             nb::arg("samples").noconvert(), nb::arg("token_weights").noconvert().none(),
             nb::arg("positions"), nb::arg("num_tasks"), nb::arg("num_samples"))
        .def("loss", &PlannedRows::loss, "See cotbal_kernels.small.");
    module.def("elementwise", &elementwise, nb::arg("function"), nb::arg("input").noconvert(),
               nb::arg("output").noconvert(), nb::arg("isa"),
               "The kernels' own exp (of arguments <= 0) or tanh, value by value.");
}
