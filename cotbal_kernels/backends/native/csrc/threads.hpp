// Work shared out over the threads torch uses.
#pragma once

#include <cstdint>

namespace cotbal {

// Calls body(context, begin, end) for pieces of 0 .. count-1, `grain` long, from up to `threads` threads at
// once; every index is in exactly one call. `body` must not throw.
//
// The threads are those of the OpenMP runtime that torch has loaded, so that torch's own workers do the
// work instead of spinning beside it. In a child of fork, where that runtime's workers no longer exist and
// waiting for them would hang, and where no such runtime is loaded, threads are started for the call.
void parallel_for(std::int64_t count, std::int64_t grain, int threads, void* context,
                  void (*body)(void* context, std::int64_t begin, std::int64_t end) noexcept);

// Once, when the extension is loaded: children forked from then on know that they are. (One that loads it
// first itself takes the runtime's threads for alive, as torch does there.)
void watch_forks() noexcept;

// "openmp" or "std::thread": what a parallel_for of this process would use now.
const char* thread_source() noexcept;

}  // namespace cotbal
