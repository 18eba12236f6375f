#include "duplicates.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "threads.hpp"

namespace sectow {
namespace {

constexpr int64_t kBatch = 1024;  // documents between two sequential passes
constexpr int64_t kGrain = 16;    // documents a worker takes at a time
// The chance to miss a pair exactly at the threshold. It falls quickly above the threshold.
constexpr double kMissedByBands = 1e-5, kMissedByAgreement = 1e-6;

// The most rows per band that still find a pair at the threshold. More rows mean fewer false
// candidates.
int64_t choose_rows(double threshold) {
  for (int64_t rows = kBins; rows > 1; --rows) {
    const double bands = static_cast<double>(kBins / rows);
    const double same = std::pow(threshold, static_cast<double>(rows));
    if (std::pow(1 - same, bands) <= kMissedByBands) return rows;
  }
  return 1;
}

// The largest k such that Binomial(kBins, threshold) falls below k by no more than the chance.
int64_t choose_agreement(double threshold) {
  if (threshold >= 1) return kBins;
  const double n = static_cast<double>(kBins);
  double below = 0, choose = 0;  // choose: log of n over k
  for (int64_t k = 0; k < kBins; ++k) {
    const double d = static_cast<double>(k);
    below += std::exp(choose + d * std::log(threshold) + (n - d) * std::log1p(-threshold));
    if (below > kMissedByAgreement) return k;
    choose += std::log(n - d) - std::log(d + 1);
  }
  return kBins;
}

}  // namespace

size_t Band::slot_of(const std::vector<uint64_t>& slots, uint32_t key) const {
  const size_t mask = slots.size() - 1;
  size_t at = static_cast<size_t>(mix64(key)) & mask;
  while (slots[at] && static_cast<uint32_t>(slots[at] >> 32) != key) at = (at + 1) & mask;
  return at;
}

int64_t Band::newest(uint32_t key) const {
  if (slots_.empty()) return -1;
  return static_cast<int64_t>(static_cast<uint32_t>(slots_[slot_of(slots_, key)])) - 1;
}

void Band::insert(uint32_t key) {
  if (10 * (used_ + 1) > 7 * slots_.size()) {
    std::vector<uint64_t> larger(std::max<size_t>(16, 2 * slots_.size()), 0);
    for (const uint64_t slot : slots_)
      if (slot) larger[slot_of(larger, static_cast<uint32_t>(slot >> 32))] = slot;
    slots_.swap(larger);
  }
  uint64_t& slot = slots_[slot_of(slots_, key)];
  used_ += slot == 0;
  next_.push_back(static_cast<int32_t>(static_cast<uint32_t>(slot)) - 1);
  slot = uint64_t{key} << 32 | static_cast<uint64_t>(next_.size());
}

DuplicateIndex::DuplicateIndex(int64_t ngram, double threshold)
    : ngram_(ngram),
      threshold_(threshold),
      rows_(choose_rows(threshold)),
      agreement_(choose_agreement(threshold)),
      bands_(static_cast<size_t>(kBins / rows_)) {}

uint32_t DuplicateIndex::band_key(const uint32_t* signature, int64_t band) const {
  uint64_t h = static_cast<uint64_t>(band);
  for (int64_t row = 0; row < rows_; ++row)
    h = (h ^ signature[band * rows_ + row]) * 0x9FB21C651E98DF25ULL, h ^= h >> 32;
  return static_cast<uint32_t>(mix64(h));
}

void DuplicateIndex::sketch_into(Sketches& sketches, int64_t at, const int32_t* tokens,
                                 int64_t length, Scratch& scratch) const {
  uint32_t* signature = sketches.signatures.data() + at * kBins;
  hash_shingles(tokens, length, ngram_, scratch.shingles);
  sketch(scratch.shingles, signature);
  uint32_t* keys = sketches.keys.data() + static_cast<size_t>(at) * bands_.size();
  for (size_t b = 0; b < bands_.size(); ++b)
    keys[b] = band_key(signature, static_cast<int64_t>(b));
}

bool DuplicateIndex::alike(int64_t id, Scratch& scratch) const {
  const auto at = static_cast<size_t>(id);
  hash_shingles(tokens_.data() + offsets_[at], offsets_[at + 1] - offsets_[at], ngram_,
                scratch.other_shingles);
  int64_t size = __atomic_load_n(&shingle_counts_[at], __ATOMIC_RELAXED);
  if (!size) {
    scratch.other_set.fill(scratch.other_shingles);
    size = scratch.other_set.size();
    __atomic_store_n(&shingle_counts_[at], size, __ATOMIC_RELAXED);
  }
  const int64_t both = scratch.set.shared(scratch.other_shingles);
  const int64_t either = scratch.set.size() + size - both;
  return static_cast<double>(both) / static_cast<double>(either) >= threshold_;
}

int64_t DuplicateIndex::find(const Sketches& sketches, int64_t at, const int32_t* tokens,
                             int64_t length, int64_t from, bool hashed, Scratch& scratch) const {
  const uint32_t* signature = sketches.signatures.data() + at * kBins;
  const uint32_t* keys = sketches.keys.data() + static_cast<size_t>(at) * bands_.size();
  auto& candidates = scratch.candidates;
  candidates.clear();
  // Each band is a cache miss in a large index, so all are prefetched before the first is read.
  for (size_t b = 0; b < bands_.size(); ++b) bands_[b].prefetch(keys[b]);
  for (size_t b = 0; b < bands_.size(); ++b)
    for (int64_t id = bands_[b].newest(keys[b]); id >= from; id = bands_[b].older(id))
      candidates.push_back(id);
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  bool filled = false;
  for (const int64_t id : candidates) {
    const uint32_t* other = signatures_.data() + id * kBins;
    int64_t agreed = 0;
    for (int64_t bin = 0; bin < kBins; ++bin) agreed += signature[bin] == other[bin];
    if (agreed < agreement_) continue;
    const auto kept = static_cast<size_t>(id);
    const bool same_length = offsets_[kept + 1] - offsets_[kept] == length;
    if (same_length && std::equal(tokens, tokens + length, tokens_.data() + offsets_[kept]))
      return id;
    if (!filled) {
      if (!hashed) hash_shingles(tokens, length, ngram_, scratch.shingles);
      scratch.set.fill(scratch.shingles);
      filled = true;
    }
    if (alike(id, scratch)) return id;
  }
  return -1;
}

void DuplicateIndex::keep(const Sketches& sketches, int64_t at, const int32_t* tokens,
                          int64_t length, int64_t number) {
  if (numbers_.size() >= INT32_MAX)
    throw std::invalid_argument("duplicate index: found 2^31 - 1 kept documents, expected fewer");
  const uint32_t* signature = sketches.signatures.data() + at * kBins;
  const uint32_t* keys = sketches.keys.data() + static_cast<size_t>(at) * bands_.size();
  tokens_.insert(tokens_.end(), tokens, tokens + length);
  offsets_.push_back(static_cast<int64_t>(tokens_.size()));
  signatures_.insert(signatures_.end(), signature, signature + kBins);
  shingle_counts_.push_back(0);
  numbers_.push_back(number);
  for (size_t b = 0; b < bands_.size(); ++b) bands_[b].insert(keys[b]);
}

// First all threads sketch the batch and look it up among what was kept before. What has no twin
// there is then compared, in order, with what the batch itself has kept so far. A twin from before
// the batch has the lower number, so both passes together give the lowest number.
void DuplicateIndex::add(const Documents& documents, int64_t threads, bool* added,
                         int64_t* match) {
  const int64_t batch = std::min(documents.count, kBatch);
  const int64_t workers = worker_count(batch, threads, kGrain);
  std::vector<Scratch> scratch(static_cast<size_t>(workers));
  Sketches sketches(batch, bands_.size());
  for (int64_t first = 0; first < documents.count; first += kBatch) {
    const int64_t count = std::min(kBatch, documents.count - first);
    parallel_for(count, workers, kGrain, [&](int64_t worker, int64_t begin, int64_t end) {
      Scratch& mine = scratch[static_cast<size_t>(worker)];
      for (int64_t i = begin; i < end; ++i) {
        const int32_t* tokens = documents.begin(first + i);
        const int64_t length = documents.length(first + i);
        sketch_into(sketches, i, tokens, length, mine);
        match[first + i] = find(sketches, i, tokens, length, 0, true, mine);
      }
    });
    const auto old = static_cast<int64_t>(numbers_.size());
    for (int64_t i = 0; i < count; ++i) {
      const int64_t d = first + i;
      const int32_t* tokens = documents.begin(d);
      const int64_t length = documents.length(d);
      if (match[d] < 0) match[d] = find(sketches, i, tokens, length, old, false, scratch[0]);
      added[d] = match[d] < 0;
      if (added[d])
        keep(sketches, i, tokens, length, seen_);
      else
        match[d] = numbers_[static_cast<size_t>(match[d])];
      ++seen_;
    }
  }
}

void DuplicateIndex::query(const Documents& documents, int64_t threads, int64_t* match) const {
  const int64_t workers = worker_count(documents.count, threads, kGrain);
  std::vector<Scratch> scratch(static_cast<size_t>(workers));
  parallel_for(documents.count, workers, kGrain, [&](int64_t worker, int64_t begin, int64_t end) {
    Scratch& mine = scratch[static_cast<size_t>(worker)];
    Sketches one(1, bands_.size());
    for (int64_t d = begin; d < end; ++d) {
      const int32_t* tokens = documents.begin(d);
      const int64_t length = documents.length(d);
      sketch_into(one, 0, tokens, length, mine);
      const int64_t id = find(one, 0, tokens, length, 0, true, mine);
      match[d] = id < 0 ? -1 : numbers_[static_cast<size_t>(id)];
    }
  });
}

void DuplicateIndex::restore(const Documents& kept, const int64_t* numbers, int64_t seen,
                             int64_t threads) {
  const int64_t batch = std::min(kept.count, kBatch);
  const int64_t workers = worker_count(batch, threads, kGrain);
  std::vector<Scratch> scratch(static_cast<size_t>(workers));
  Sketches sketches(batch, bands_.size());
  for (int64_t first = 0; first < kept.count; first += kBatch) {
    const int64_t count = std::min(kBatch, kept.count - first);
    parallel_for(count, workers, kGrain, [&](int64_t worker, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        sketch_into(sketches, i, kept.begin(first + i), kept.length(first + i),
                    scratch[static_cast<size_t>(worker)]);
    });
    for (int64_t i = 0; i < count; ++i)
      keep(sketches, i, kept.begin(first + i), kept.length(first + i), numbers[first + i]);
  }
  seen_ = seen;
}

}  // namespace sectow
