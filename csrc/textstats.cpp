#include "textstats.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "threads.hpp"

namespace sectow {
namespace {

// Numbers 64-bit keys 0, 1, 2, ... in the order in which they come.
class Names {
 public:
  Names() : slots_(1024, Slot{0, 0}) {}

  uint32_t of(uint64_t key) {
    if (2 * (used_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[position(slots_, key)];
    if (!slot.name) slot = Slot{key, ++used_};
    return static_cast<uint32_t>(slot.name - 1);
  }
  int64_t size() const { return static_cast<int64_t>(used_); }

 private:
  struct Slot {
    uint64_t key, name;  // name 0: empty
  };
  static size_t position(const std::vector<Slot>& slots, uint64_t key) {
    const size_t mask = slots.size() - 1;
    size_t at = static_cast<size_t>(mix64(key)) & mask;
    while (slots[at].name && slots[at].key != key) at = (at + 1) & mask;
    return at;
  }
  void grow() {
    std::vector<Slot> larger(2 * slots_.size(), Slot{0, 0});
    for (const Slot& slot : slots_)
      if (slot.name) larger[position(larger, slot.key)] = slot;
    slots_.swap(larger);
  }
  std::vector<Slot> slots_;
  uint64_t used_ = 0;
};

// Every n-gram as a number. Equal n-grams of all documents have the same number, others differ. An
// n-gram is its first n - 1 tokens, which have a number already, and its last token.
class Grams {
 public:
  explicit Grams(const Documents& documents) : documents_(documents) {
    if (documents.offsets[documents.count] > UINT32_MAX)
      throw std::invalid_argument("tokens: found more than 2^32 - 1, expected fewer");
    names_.resize(static_cast<size_t>(documents.offsets[documents.count]));
  }

  void next_order() {
    Names table;
    for (int64_t d = 0; d < documents_.count; ++d) {
      const int64_t start = documents_.offsets[d];
      for (int64_t i = 0; i < documents_.length(d) - order_; ++i) {
        uint32_t& name = names_[static_cast<size_t>(start + i)];
        const auto last = static_cast<uint32_t>(documents_.tokens[start + i + order_]);
        name = table.of((order_ ? uint64_t{name} << 32 : 0) | last);
      }
    }
    ++order_;
    distinct_ = table.size();
  }

  const uint32_t* of(int64_t d) const { return names_.data() + documents_.offsets[d]; }
  int64_t count(int64_t d) const { return std::max<int64_t>(0, documents_.length(d) - order_ + 1); }
  int64_t distinct() const { return distinct_; }

 private:
  const Documents& documents_;
  std::vector<uint32_t> names_;
  int64_t order_ = 0, distinct_ = 0;
};

int64_t longest(const Documents& documents) {
  int64_t most = 0;
  for (int64_t d = 0; d < documents.count; ++d) most = std::max(most, documents.length(d));
  return most;
}

// The length among the other documents that is closest to each one's; ties to the shorter.
std::vector<int64_t> closest_lengths(const Documents& documents) {
  std::vector<int64_t> sorted(static_cast<size_t>(documents.count)), closest(sorted.size());
  for (int64_t d = 0; d < documents.count; ++d) sorted[static_cast<size_t>(d)] = documents.length(d);
  std::sort(sorted.begin(), sorted.end());
  for (int64_t d = 0; d < documents.count; ++d) {
    const int64_t mine = documents.length(d);
    const auto [low, high] = std::equal_range(sorted.begin(), sorted.end(), mine);
    int64_t& best = closest[static_cast<size_t>(d)];
    if (high - low > 1)
      best = mine;
    else if (low == sorted.begin())
      best = *high;
    else if (high == sorted.end() || mine - *(low - 1) <= *high - mine)
      best = *(low - 1);
    else
      best = *high;
  }
  return closest;
}

// For each n-gram: the most often that a document has it, which one, and the next most often.
struct Most {
  int64_t document = -1;
  int64_t first = 0, second = 0;
};

// How often each distinct n-gram stands in one document.
class Counts {
 public:
  explicit Counts(int64_t names) : count_(static_cast<size_t>(names), 0) {}
  template <class Visit>
  void each(const uint32_t* names, int64_t length, const Visit& visit) {
    for (int64_t i = 0; i < length; ++i) ++count_[names[i]];
    for (int64_t i = 0; i < length; ++i) {
      int64_t& count = count_[names[i]];
      if (count) visit(names[i], count);
      count = 0;
    }
  }

 private:
  std::vector<int64_t> count_;
};

}  // namespace

void self_bleu(const Documents& documents, int64_t order, double* out) {
  std::fill(out, out + documents.count, 0.0);
  if (documents.count < 2) return;
  const int64_t orders = std::min(order, longest(documents));
  const size_t count = static_cast<size_t>(documents.count);
  std::vector<double> log_sum(count, 0.0), smooth(count, 1.0);
  std::vector<int64_t> used(count, 0);
  std::vector<bool> any(count, false);
  Grams grams(documents);
  for (int64_t n = 1; n <= orders; ++n) {
    grams.next_order();
    std::vector<Most> most(static_cast<size_t>(grams.distinct()));
    Counts counts(grams.distinct());
    for (int64_t d = 0; d < documents.count; ++d)
      counts.each(grams.of(d), grams.count(d), [&](uint32_t name, int64_t times) {
        Most& m = most[name];
        if (times > m.first)
          m = Most{d, times, m.first};
        else
          m.second = std::max(m.second, times);
      });
    for (int64_t d = 0; d < documents.count; ++d) {
      const auto at = static_cast<size_t>(d);
      const int64_t total = grams.count(d);
      if (!total) continue;
      int64_t correct = 0;
      counts.each(grams.of(d), total, [&](uint32_t name, int64_t times) {
        const Most& m = most[name];
        correct += std::min(times, m.document == d ? m.second : m.first);
      });
      any[at] = any[at] || correct;
      if (!correct) smooth[at] *= 2;
      const double hits = correct ? static_cast<double>(correct) : 1 / smooth[at];
      log_sum[at] += std::log(hits / static_cast<double>(total));
      used[at] = n;
    }
  }
  const std::vector<int64_t> closest = closest_lengths(documents);
  for (int64_t d = 0; d < documents.count; ++d) {
    const auto at = static_cast<size_t>(d);
    if (!any[at]) continue;
    const double mine = static_cast<double>(documents.length(d));
    const double brevity = std::min(0.0, 1 - static_cast<double>(closest[at]) / mine);
    out[d] = std::min(1.0, std::exp(brevity + log_sum[at] / static_cast<double>(used[at])));
  }
}

double distinct_n(const Documents& documents, int64_t n) {
  if (n > longest(documents)) return 0.0;
  Grams grams(documents);
  for (int64_t order = 0; order < n; ++order) grams.next_order();
  int64_t total = 0;
  for (int64_t d = 0; d < documents.count; ++d) total += grams.count(d);
  return static_cast<double>(grams.distinct()) / static_cast<double>(total);
}

void repetition(const Documents& documents, int64_t n, int64_t threads, double* out) {
  constexpr int64_t grain = 16;
  const int64_t workers = worker_count(documents.count, threads, grain);
  parallel_for(documents.count, workers, grain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      const int64_t offsets[2] = {0, documents.length(d)};
      const int64_t total = offsets[1] - n + 1;
      out[d] = 0;
      if (total < 1) continue;
      const Documents alone{documents.begin(d), offsets, 1};
      Grams grams(alone);
      for (int64_t order = 0; order < n; ++order) grams.next_order();
      out[d] = static_cast<double>(total - grams.distinct()) / static_cast<double>(total);
    }
  });
}

}  // namespace sectow
