// Which prompts to draw next: those whose success is least certain. See
// sectow_fast/native/priority.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sectow {

// Sums over leaves, as a tree. Every node is the sum of its two children, so the tree is a function
// of its leaves alone: a restored sampler draws what the first would have drawn.
class SumTree {
 public:
  explicit SumTree(std::size_t leaves);
  void set(std::size_t leaf, double value);
  double get(std::size_t leaf) const { return sum_[size_ + leaf]; }
  double total() const { return sum_[1]; }
  // The leaf that holds `target` in [0, total).
  std::size_t find(double target) const;

 private:
  std::size_t size_ = 1;
  std::vector<double> sum_;
};

class PrioritySampler {
 public:
  // strata: of each prompt, 0..count-1, every one used.
  PrioritySampler(std::vector<int32_t> strata, int32_t count, uint64_t seed, double exploration,
                  double decay);

  // n different prompts, drawn from (seed, step) and the statistics alone.
  std::vector<int64_t> sample(int64_t n, uint64_t step);
  void update(int64_t prompt, double successes, double trials);

  double priority(int64_t prompt) const;
  std::size_t size() const { return place_.size(); }
  std::vector<double> successes, trials;
  // Computes every leaf again after the statistics were replaced.
  void rebuild();

 private:
  struct Place {
    int32_t stratum;
    int32_t leaf;
  };
  struct Stratum {
    std::vector<int64_t> prompts;
    SumTree uniform, priority;
  };
  std::vector<Place> place_;
  std::vector<Stratum> strata_;
  uint64_t seed_;
  double exploration_, decay_;
};

}  // namespace sectow
