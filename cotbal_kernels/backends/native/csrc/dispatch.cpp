#include "dispatch.hpp"

#include <array>

namespace cotbal {
namespace {

// The builtins ask the processor and, through XGETBV, whether the system saves its wider registers.
auto detect() noexcept {
#ifdef COTBAL_X86_KERNELS
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#ifdef COTBAL_AVX512_EMULATED  // a test build: avx512.cpp over intrinsics that are plain loops
    const bool avx512 = true;
#else
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
#endif
    return std::array{
        InstructionSet{"portable", true, row_pass_portable, elementwise_portable},
#ifdef COTBAL_X86_KERNELS
        InstructionSet{"avx2", avx2, row_pass_avx2, elementwise_avx2},
        InstructionSet{"avx512", avx512, row_pass_avx512, elementwise_avx512},
#endif
    };
}

}  // namespace

InstructionSets instruction_sets() noexcept {
    static const auto sets = detect();
    return {sets.data(), sets.data() + sets.size()};
}

const InstructionSet* find_instruction_set(std::string_view name) noexcept {
    const InstructionSet* found = nullptr;
    for (const InstructionSet& set : instruction_sets()) {
        if (name.empty() ? set.supported : name == set.name) {
            found = &set;
        }
    }
    return found;
}

}  // namespace cotbal
