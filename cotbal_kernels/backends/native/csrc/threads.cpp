#include "threads.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace cotbal {
namespace {

using Body = void (*)(void*, std::int64_t, std::int64_t) noexcept;
// The entry the compiler itself calls for `#pragma omp parallel`; libgomp has it, and libomp and libiomp5
// have it for programs built against libgomp.
using GompParallel = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);

struct Team {
    std::atomic<std::int64_t> next;
    std::int64_t count;
    std::int64_t grain;
    void* context;
    Body body;
};

// However many members a team gets, they drain one counter: no member's presence is counted on.
void work(void* data) {
    Team& team = *static_cast<Team*>(data);
    for (;;) {
        const std::int64_t begin = team.next.fetch_add(team.grain, std::memory_order_relaxed);
        if (begin >= team.count) {
            return;
        }
        team.body(team.context, begin, std::min(team.count, begin + team.grain));
    }
}

std::atomic<bool> forked{false};

GompParallel openmp() noexcept {
    // Looked up, not linked: torch brings its runtime under a name that differs from build to build, and a
    // second runtime of our own would fight the first for the processors. torch loads it globally.
    static const auto parallel = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return forked.load(std::memory_order_relaxed) ? nullptr : parallel;
}

void started_threads(Team& team, int threads) {
    std::vector<std::thread> helpers;
    try {
        for (int i = 1; i < threads; ++i) {
            helpers.emplace_back(work, &team);
        }
    } catch (const std::system_error&) {
        // No more threads to be had: those that started, and this one, do the work.
    }
    work(&team);
    for (std::thread& helper : helpers) {
        helper.join();
    }
}

}  // namespace

void watch_forks() noexcept {
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
}

void parallel_for(std::int64_t count, std::int64_t grain, int threads, void* context, Body body) {
    const std::int64_t pieces = (count + grain - 1) / grain;
    const int members = static_cast<int>(std::min<std::int64_t>(pieces, threads));
    if (members <= 1) {
        if (count > 0) {
            body(context, 0, count);
        }
        return;
    }
    Team team{{0}, count, grain, context, body};
    if (const GompParallel parallel = openmp()) {
        parallel(work, &team, static_cast<unsigned>(members), 0);
    } else {
        started_threads(team, members);
    }
}

const char* thread_source() noexcept {
    return openmp() != nullptr ? "openmp" : "std::thread";
}

}  // namespace cotbal
