#include "packing.hpp"

#include <algorithm>
#include <numeric>
#include <queue>
#include <tuple>

namespace sectow {
namespace {

// Largest free room over bins, as a tree: the first bin with enough room in O(log bins).
class Rooms {
 public:
  explicit Rooms(std::size_t bins) {
    while (size_ < bins) size_ *= 2;
    most_.assign(2 * size_, -1);
  }

  void set(std::size_t bin, int64_t room) {
    std::size_t node = size_ + bin;
    most_[node] = room;
    for (node /= 2; node >= 1; node /= 2) most_[node] = std::max(most_[2 * node], most_[2 * node + 1]);
  }

  // The first bin with room for `cost`, or -1.
  int64_t first(int64_t cost) const {
    if (most_[1] < cost) return -1;
    std::size_t node = 1;
    while (node < size_) node = most_[2 * node] >= cost ? 2 * node : 2 * node + 1;
    return static_cast<int64_t>(node - size_);
  }

  int64_t room(std::size_t bin) const { return most_[size_ + bin]; }

 private:
  std::size_t size_ = 1;
  std::vector<int64_t> most_;
};

}  // namespace

Packs pack_groups(const std::vector<int64_t>& costs, int64_t budget, int64_t ranks) {
  std::vector<int32_t> order(costs.size());
  std::iota(order.begin(), order.end(), 0);
  // Longest first; equal ones keep their order, so that the answer is unique.
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return costs[static_cast<std::size_t>(a)] > costs[static_cast<std::size_t>(b)];
  });
  Packs out;
  out.pack.resize(costs.size());
  Rooms rooms(std::max<std::size_t>(costs.size(), 1));
  std::vector<int64_t> load;
  for (const int32_t group : order) {
    const int64_t cost = costs[static_cast<std::size_t>(group)];
    int64_t bin = rooms.first(cost);
    if (bin < 0) {
      bin = static_cast<int64_t>(load.size());
      load.push_back(0);
      rooms.set(static_cast<std::size_t>(bin), std::max<int64_t>(budget, cost));
    }
    const std::size_t at = static_cast<std::size_t>(bin);
    rooms.set(at, rooms.room(at) - cost);
    load[at] += cost;
    out.pack[static_cast<std::size_t>(group)] = static_cast<int32_t>(bin);
  }
  // The fullest pack goes to the rank with the fewest tokens so far. All ranks get the same number
  // of packs, give or take one, since they step together.
  std::vector<int32_t> packs(load.size());
  std::iota(packs.begin(), packs.end(), 0);
  std::stable_sort(packs.begin(), packs.end(), [&](int32_t a, int32_t b) {
    return load[static_cast<std::size_t>(a)] > load[static_cast<std::size_t>(b)];
  });
  using Rank = std::tuple<int64_t, int32_t, int64_t>;  // tokens, number, packs
  std::priority_queue<Rank, std::vector<Rank>, std::greater<Rank>> free;
  for (int32_t r = 0; r < ranks; ++r) free.emplace(0, r, 0);
  const int64_t most = (static_cast<int64_t>(load.size()) + ranks - 1) / ranks;
  out.rank.resize(load.size());
  for (const int32_t pack : packs) {
    const auto [tokens, number, count] = free.top();
    free.pop();
    out.rank[static_cast<std::size_t>(pack)] = number;
    if (count + 1 < most)
      free.emplace(tokens + load[static_cast<std::size_t>(pack)], number, count + 1);
  }
  return out;
}

}  // namespace sectow
