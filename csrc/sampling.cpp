#include "sampling.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "fastexp.hpp"
#include "vectorize.hpp"

namespace sectow {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 1024;
// Weights in (2^-64, 1] fall into 32 buckets per octave; the rest shares the last one.
constexpr int64_t kBuckets = 64 * 32;

// Whether a value is NaN, and the largest value.
SECTOW_CLONES void scan(const float* values, int64_t count, bool* bad, float* top) {
  float most[kLanes];
  int32_t nan[kLanes] = {};
  std::fill(most, most + kLanes, -std::numeric_limits<float>::infinity());
  int64_t v = 0;
  for (; v + kLanes <= count; v += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) {
      const float x = values[v + j];
      most[j] = x > most[j] ? x : most[j];
      nan[j] |= x != x;
    }
  for (; v < count; ++v) {
    most[0] = values[v] > most[0] ? values[v] : most[0];
    nan[0] |= values[v] != values[v];
  }
  *top = *std::max_element(most, most + kLanes);
  *bad = std::any_of(nan, nan + kLanes, [](int32_t one) { return one != 0; });
}

// weight = exp((value - top) / temperature).
SECTOW_CLONES void weigh(const float* values, int64_t count, double top, double temperature,
                         double* weight) {
  if (temperature == 1.0)
    for (int64_t v = 0; v < count; ++v) weight[v] = exp_nonpositive(values[v] - top);
  else
    for (int64_t v = 0; v < count; ++v)
      weight[v] = exp_nonpositive((values[v] - top) / temperature);
}

// Sums of blocks of kBlock, each in lanes added up in one fixed order; returns their sum.
SECTOW_CLONES double sum_blocks(const double* weight, int64_t count, std::vector<double>& blocks) {
  blocks.clear();
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    double lane[kLanes] = {};
    int64_t v = begin;
    for (; v + kLanes <= end; v += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) lane[j] += weight[v + j];
    double sum = 0.0;
    for (const double one : lane) sum += one;
    for (; v < end; ++v) sum += weight[v];
    blocks.push_back(sum);
    total += sum;
  }
  return total;
}

// Rank order is the larger weight first, then the lower id. A cut names the last token kept.
struct Cut {
  double weight;
  int64_t id;
};

bool before(const double* weight, int32_t a, int32_t b) {
  return weight[a] != weight[b] ? weight[a] > weight[b] : a < b;
}

SECTOW_CLONES void drop_after(double* weight, int64_t count, Cut cut) {
  for (int64_t v = 0; v < count; ++v) {
    const bool kept = weight[v] > cut.weight || (weight[v] == cut.weight && v <= cut.id);
    weight[v] = kept ? weight[v] : 0.0;
  }
}

SECTOW_CLONES void drop_below(double* weight, int64_t count, double floor) {
  for (int64_t v = 0; v < count; ++v) weight[v] = weight[v] >= floor ? weight[v] : 0.0;
}

// The bits of a positive double grow with it, so buckets are in rank order.
int64_t bucket_of(double weight) {
  uint64_t bits;
  std::memcpy(&bits, &weight, sizeof bits);
  constexpr int64_t one = int64_t{0x3FF0000000000000} >> 47;
  return std::min<int64_t>(kBuckets - 1, one - static_cast<int64_t>(bits >> 47));
}

struct Bucket {
  double mass = 0.0;
  int64_t count = 0;
};

// Finds the first token in rank order at which `reached(count, mass)` of all tokens up to it holds;
// one pass over the vocabulary and a sort of one bucket. False where no token is the last.
template <typename Reached>
bool find_cut(const double* weight, int64_t count, Reached reached, Cut* cut) {
  static thread_local std::vector<Bucket> buckets;
  static thread_local std::vector<int32_t> members;
  // Two tables, so that an addition need not wait for the one before.
  buckets.assign(2 * kBuckets, Bucket{});
  for (int64_t v = 0; v < count; ++v) {
    if (weight[v] <= 0.0) continue;
    Bucket& bucket = buckets[static_cast<size_t>((v & 1) * kBuckets + bucket_of(weight[v]))];
    bucket.mass += weight[v];
    ++bucket.count;
  }
  Bucket seen;
  for (int64_t b = 0; b < kBuckets; ++b) {
    const Bucket &even = buckets[static_cast<size_t>(b)],
                 &odd = buckets[static_cast<size_t>(kBuckets + b)];
    const int64_t here = even.count + odd.count;
    if (here == 0) continue;
    const Bucket next{seen.mass + even.mass + odd.mass, seen.count + here};
    // Sums over tokens, below, round differently: where it is close, this bucket is searched too.
    if (!reached(next.count, next.mass * (1.0 + 1e-9))) {
      seen = next;
      continue;
    }
    members.clear();
    for (int64_t v = 0; v < count; ++v)
      if (weight[v] > 0.0 && bucket_of(weight[v]) == b) members.push_back(static_cast<int32_t>(v));
    // Sorted in growing parts, since a flat distribution has all tokens in one bucket.
    size_t done = 0, head = 256;
    while (done < members.size()) {
      head = std::min(head, members.size());
      const auto at = [&](size_t i) { return members.begin() + static_cast<std::ptrdiff_t>(i); };
      const auto rank = [&](int32_t a, int32_t b) { return before(weight, a, b); };
      if (head < members.size()) std::nth_element(at(done), at(head - 1), members.end(), rank);
      std::sort(at(done), at(head), rank);
      for (; done < head; ++done) {
        seen.mass += weight[members[done]];
        ++seen.count;
        if (reached(seen.count, seen.mass)) {
          *cut = {weight[members[done]], members[done]};
          return true;
        }
      }
      head *= 4;
    }
    seen = next;
  }
  return false;
}

}  // namespace

std::string sample_row(const float* logits, int64_t vocabulary, const SamplingOptions& options,
                       double u, int32_t* token, float* logprob) {
  bool bad = false;
  float most = 0.0f;
  scan(logits, vocabulary, &bad, &most);
  constexpr float infinity = std::numeric_limits<float>::infinity();
  if (bad || most == infinity) {
    for (int64_t v = 0; v < vocabulary; ++v) {
      if (std::isnan(logits[v])) return "found NaN at token " + std::to_string(v);
      if (!bad && logits[v] == infinity) return "found +inf at token " + std::to_string(v);
    }
  }
  if (most == -infinity) return "found -inf at every token";

  const double top = most;
  const double temperature = options.temperature > 0.0 ? options.temperature : 1.0;
  static thread_local std::vector<double> weights, blocks;
  weights.resize(static_cast<size_t>(vocabulary));
  double* weight = weights.data();
  weigh(logits, vocabulary, top, temperature, weight);
  const double total = sum_blocks(weight, vocabulary, blocks);

  int64_t chosen = std::find(logits, logits + vocabulary, most) - logits;
  if (options.temperature > 0.0) {
    double mass = total;
    Cut cut{};
    if (options.min_p > 0.0) {
      drop_below(weight, vocabulary, options.min_p);  // relative to the best token, of weight 1
      mass = sum_blocks(weight, vocabulary, blocks);
    }
    if (options.top_k > 0 && options.top_k < vocabulary) {
      const auto full = [&](int64_t count, double) { return count >= options.top_k; };
      if (find_cut(weight, vocabulary, full, &cut)) {
        drop_after(weight, vocabulary, cut);
        mass = sum_blocks(weight, vocabulary, blocks);
      }
    }
    if (options.top_p < 1.0) {
      const double wanted = options.top_p * mass;
      const auto enough = [&](int64_t, double sum) { return sum >= wanted; };
      if (find_cut(weight, vocabulary, enough, &cut)) {
        drop_after(weight, vocabulary, cut);
        mass = sum_blocks(weight, vocabulary, blocks);
      }
    }
    // The draw goes through the tokens by id, so it does not depend on how the cuts were found.
    const double target = u * mass;
    double sum = 0.0;
    bool found = false;
    for (size_t block = 0; block < blocks.size() && !found; ++block) {
      if (sum + blocks[block] <= target) {
        sum += blocks[block];
        continue;
      }
      const int64_t begin = static_cast<int64_t>(block) * kBlock;
      const int64_t end = std::min(vocabulary, begin + kBlock);
      for (int64_t v = begin; v < end && !found; ++v) {
        sum += weight[v];
        found = weight[v] > 0.0 && sum > target;
        if (found) chosen = v;
      }
    }
    // Rounding can put the target just past the sum: then the last kept token is drawn.
    for (int64_t v = vocabulary - 1; v >= 0 && !found; --v) {
      found = weight[v] > 0.0;
      if (found) chosen = v;
    }
  }
  *token = static_cast<int32_t>(chosen);
  *logprob = static_cast<float>((logits[chosen] - top) / temperature - std::log(total));
  return {};
}

}  // namespace sectow
