#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace sectow {
namespace {

// Rank order: the larger weight first, then the lower id. Total, so that every cut is the same
// whatever the selection algorithm does.
struct Ranked {
  const double* weight;
  bool operator()(int32_t a, int32_t b) const {
    return weight[a] != weight[b] ? weight[a] > weight[b] : a < b;
  }
};

// Keeps the shortest ranked prefix whose mass reaches `target`. Doubles the sorted head until it
// is long enough: a nucleus is short, the vocabulary is not.
void cut_nucleus(std::vector<int32_t>& kept, const double* weight, double target) {
  const Ranked ranked{weight};
  size_t head = std::min<size_t>(256, kept.size());
  size_t done = 0;
  double mass = 0.0;
  while (true) {
    if (head < kept.size()) {
      std::nth_element(kept.begin() + static_cast<std::ptrdiff_t>(done),
                       kept.begin() + static_cast<std::ptrdiff_t>(head - 1), kept.end(), ranked);
    }
    std::sort(kept.begin() + static_cast<std::ptrdiff_t>(done),
              kept.begin() + static_cast<std::ptrdiff_t>(head), ranked);
    for (; done < head; ++done) {
      mass += weight[kept[done]];
      if (mass >= target) {
        kept.resize(done + 1);
        return;
      }
    }
    if (head == kept.size()) return;
    head = std::min(kept.size(), head * 4);
  }
}

}  // namespace

std::string sample_row(const float* logits, int64_t vocabulary, const SamplingOptions& options,
                       double u, int32_t* token, float* logprob) {
  int64_t best = 0;
  for (int64_t v = 0; v < vocabulary; ++v) {
    if (std::isnan(logits[v])) return "found NaN at token " + std::to_string(v);
    if (logits[v] == std::numeric_limits<float>::infinity())
      return "found +inf at token " + std::to_string(v);
    if (logits[v] > logits[best]) best = v;
  }
  const double top = logits[best];
  if (top == -std::numeric_limits<double>::infinity()) return "found -inf at every token";

  const double temperature = options.temperature > 0.0 ? options.temperature : 1.0;
  static thread_local std::vector<double> weight;
  weight.resize(static_cast<size_t>(vocabulary));
  double total = 0.0;
  for (int64_t v = 0; v < vocabulary; ++v) {
    weight[v] = std::exp((logits[v] - top) / temperature);
    total += weight[v];
  }
  int64_t chosen = best;
  if (options.temperature > 0.0) {
    const bool truncates = options.top_k > 0 || options.top_p < 1.0 || options.min_p > 0.0;
    static thread_local std::vector<int32_t> kept;
    double mass = total;
    if (truncates) {
      kept.clear();
      // min-p is relative to the best token, whose weight is 1.
      for (int64_t v = 0; v < vocabulary; ++v)
        if (weight[v] > 0.0 && weight[v] >= options.min_p) kept.push_back(static_cast<int32_t>(v));
      const Ranked ranked{weight.data()};
      if (options.top_k > 0 && static_cast<size_t>(options.top_k) < kept.size()) {
        std::nth_element(kept.begin(), kept.begin() + (options.top_k - 1), kept.end(), ranked);
        kept.resize(static_cast<size_t>(options.top_k));
      }
      if (options.top_p < 1.0) {
        std::sort(kept.begin(), kept.end());
        double left = 0.0;
        for (const int32_t v : kept) left += weight[v];
        cut_nucleus(kept, weight.data(), options.top_p * left);
      }
      // The draw goes through the kept tokens by id, so it does not depend on how they were found.
      std::sort(kept.begin(), kept.end());
      mass = 0.0;
      for (const int32_t v : kept) mass += weight[v];
    }
    const double target = u * mass;
    double sum = 0.0;
    const auto take = [&](int64_t v) {
      if (weight[v] <= 0.0) return false;
      chosen = v;
      sum += weight[v];
      return sum > target;
    };
    if (truncates) {
      for (const int32_t v : kept)
        if (take(v)) break;
    } else {
      for (int64_t v = 0; v < vocabulary; ++v)
        if (take(v)) break;
    }
  }
  *token = static_cast<int32_t>(chosen);
  *logprob = static_cast<float>((logits[chosen] - top) / temperature - std::log(total));
  return {};
}

}  // namespace sectow
