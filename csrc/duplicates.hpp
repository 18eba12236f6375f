// Near duplicates among documents of token ids: MinHash signatures, LSH bands, exact Jaccard.
#pragma once

#include <cstdint>
#include <vector>

#include "documents.hpp"
#include "shingles.hpp"

namespace sectow {

// One LSH band: a hash table from a 32-bit band key to the kept documents that have it, newest
// first. Documents that share a key by chance become candidates too; candidates are verified.
class Band {
 public:
  // The newest document with this key, the one before `id` with its key; -1 where there is none.
  int64_t newest(uint32_t key) const;
  int64_t older(int64_t id) const { return next_[static_cast<size_t>(id)]; }
  // Adds the next document; documents are numbered from 0.
  void insert(uint32_t key);
  void prefetch(uint32_t key) const {
    if (!slots_.empty()) __builtin_prefetch(&slots_[mix64(key) & (slots_.size() - 1)]);
  }

 private:
  size_t slot_of(const std::vector<uint64_t>& slots, uint32_t key) const;
  std::vector<uint64_t> slots_;  // key << 32 | id + 1; 0 is empty; the length is a power of two
  std::vector<int32_t> next_;
  size_t used_ = 0;
};

// Keeps the first document of each cluster. Not safe for two calls at a time.
//
// Documents are numbered in the order they were offered, duplicates counted. Only kept documents
// are stored (tokens, signature, bands), so memory is linear and a huge cluster costs one entry.
class DuplicateIndex {
 public:
  // ngram >= 1; threshold in [0.1, 1]: below 0.1 128 bins cannot give the promised recall.
  DuplicateIndex(int64_t ngram, double threshold);

  // added[d]: kept; match[d]: number of the kept twin with the lowest number, or -1.
  void add(const Documents& documents, int64_t threads, bool* added, int64_t* match);

  // match[d] as in add, nothing is kept.
  void query(const Documents& documents, int64_t threads, int64_t* match) const;

  // Take over what another index had kept; this one must be empty.
  void restore(const Documents& kept, const int64_t* numbers, int64_t seen, int64_t threads);

  int64_t seen() const { return seen_; }
  const std::vector<int64_t>& numbers() const { return numbers_; }
  const std::vector<int64_t>& offsets() const { return offsets_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }

 private:
  struct Scratch {
    std::vector<uint64_t> shingles, other_shingles;
    ShingleSet set, other_set;
    std::vector<int64_t> candidates;
  };
  // The sketches of one batch: signatures [kBins] and keys [bands] of each.
  struct Sketches {
    Sketches(int64_t documents, size_t bands)
        : signatures(static_cast<size_t>(documents * kBins)),
          keys(static_cast<size_t>(documents) * bands) {}
    std::vector<uint32_t> signatures, keys;
  };
  uint32_t band_key(const uint32_t* signature, int64_t band) const;
  void sketch_into(Sketches& sketches, int64_t at, const int32_t* tokens, int64_t length,
                   Scratch& scratch) const;
  // The lowest kept id >= from that is a twin, or -1. `hashed`: scratch.shingles are its own.
  int64_t find(const Sketches& sketches, int64_t at, const int32_t* tokens, int64_t length,
               int64_t from, bool hashed, Scratch& scratch) const;
  bool alike(int64_t id, Scratch& scratch) const;
  void keep(const Sketches& sketches, int64_t at, const int32_t* tokens, int64_t length,
            int64_t number);

  int64_t ngram_;
  double threshold_;
  int64_t rows_;       // signature entries per band
  int64_t agreement_;  // a candidate whose signatures agree in fewer bins is no twin
  std::vector<Band> bands_;
  int64_t seen_ = 0;
  std::vector<int64_t> numbers_;      // [kept] number as offered
  std::vector<int64_t> offsets_{0};   // [kept + 1] into tokens_
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> signatures_;  // [kept, kBins]
  // [kept] distinct shingles, 0 until first asked for. Threads may write the same answer at the
  // same time, so it is read and written atomically.
  mutable std::vector<int64_t> shingle_counts_;
};

}  // namespace sectow
