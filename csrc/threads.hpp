// Work shared over threads such that the answer does not depend on how many there are.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace sectow {

// How many workers there are for `threads` (0: one per core), at most one per `grain` of n items.
inline int64_t worker_count(int64_t n, int64_t threads, int64_t grain) {
  const int64_t hardware = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t wanted = threads > 0 ? threads : hardware;
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, (n + grain - 1) / grain));
}

// Calls work(worker, begin, end) on blocks of `grain` items that cover [0, n), each item once.
// Which worker gets which block is left open: work writes per item, or to scratch of its worker.
// The first exception is thrown again here, after all workers have ended.
template <class Work>
void parallel_for(int64_t n, int64_t workers, int64_t grain, const Work& work) {
  std::atomic<int64_t> next{0};
  std::vector<std::exception_ptr> problems(static_cast<size_t>(workers));
  const auto run = [&](int64_t worker) {
    try {
      for (;;) {
        const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= n) return;
        work(worker, begin, std::min(n, begin + grain));
      }
    } catch (...) {
      problems[static_cast<size_t>(worker)] = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(static_cast<size_t>(workers));
  for (int64_t worker = 1; worker < workers; ++worker) {
    try {
      pool.emplace_back(run, worker);
    } catch (const std::exception&) {
      break;  // no more threads can be started: those that run take its share
    }
  }
  run(0);
  for (auto& thread : pool) thread.join();
  for (const auto& problem : problems)
    if (problem) std::rethrow_exception(problem);
}

}  // namespace sectow
