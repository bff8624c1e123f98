// The instruction sets this extension was built for, and what this processor can run of them.
#pragma once

#include <string_view>

#include "row_pass.hpp"

namespace cotbal {

struct InstructionSet {
    const char* name;
    bool supported;  // by this processor and its operating system
    RowPassFunction* row_pass;
    ElementwiseFunction* elementwise;
};

struct InstructionSets {
    const InstructionSet* begin_;
    const InstructionSet* end_;
    const InstructionSet* begin() const noexcept { return begin_; }
    const InstructionSet* end() const noexcept { return end_; }
};

// From the least to the best.
InstructionSets instruction_sets() noexcept;

// The named one, or the best supported for an empty name; null when there is none of that name.
const InstructionSet* find_instruction_set(std::string_view name) noexcept;

}  // namespace cotbal
