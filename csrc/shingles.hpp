// A document as a set of hashed n-grams, and its MinHash signature.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "documents.hpp"

namespace sectow {

constexpr int64_t kBins = 128;

// 64-bit hash of `length` tokens. Two n-grams collide with a chance of 2^-64.
inline uint64_t hash_gram(const int32_t* tokens, int64_t length) {
  uint64_t h = static_cast<uint64_t>(length) * 0x9E3779B97F4A7C15ULL;
  for (int64_t i = 0; i < length; ++i) {
    h = (h ^ static_cast<uint32_t>(tokens[i])) * 0xD6E8FEB86659FD93ULL;
    h ^= h >> 32;
  }
  return mix64(h);
}

// The hash of each n-gram, repeated ones too; a document shorter than ngram is one shingle of all
// its tokens, so that an empty document equals only empty ones.
inline void hash_shingles(const int32_t* tokens, int64_t length, int64_t ngram,
                          std::vector<uint64_t>& out) {
  out.resize(static_cast<size_t>(std::max<int64_t>(1, length - ngram + 1)));
  if (length < ngram)
    out[0] = hash_gram(tokens, length);
  else
    for (size_t i = 0; i < out.size(); ++i) out[i] = hash_gram(tokens + i, ngram);
}

// The distinct ones of some shingles, in an open-addressing table that is used again and again.
class ShingleSet {
 public:
  void fill(const std::vector<uint64_t>& shingles) {
    size_t size = 64;
    while (size < 2 * shingles.size()) size *= 2;
    // Not larger than needed, because clearing the table of a long document takes time.
    slots_.assign(size, Slot{0, kEmpty});
    mask_ = size - 1;
    count_ = 0;
    pass_ = 0;
    for (const uint64_t hash : shingles) {
      Slot& slot = slots_[position(hash)];
      if (slot.pass != kEmpty) continue;
      slot = Slot{hash, 0};
      ++count_;
    }
  }

  int64_t size() const { return count_; }

  // How many distinct shingles this set shares with the others.
  int64_t shared(const std::vector<uint64_t>& others) {
    ++pass_;
    int64_t count = 0;
    for (const uint64_t hash : others) {
      Slot& slot = slots_[position(hash)];
      if (slot.pass == kEmpty || slot.pass == pass_) continue;
      slot.pass = pass_;
      ++count;
    }
    return count;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t hash, pass;  // pass: the last call of `shared` that counted it
  };
  size_t position(uint64_t hash) const {
    size_t at = static_cast<size_t>(hash) & mask_;
    while (slots_[at].pass != kEmpty && slots_[at].hash != hash) at = (at + 1) & mask_;
    return at;
  }
  std::vector<Slot> slots_;
  int64_t count_ = 0;
  size_t mask_ = 0;
  uint64_t pass_ = 0;
};

// One-permutation MinHash. An empty bin is filled by throwing all shingles again, not by a copy of
// another bin (Dahlgaard, Knudsen, Thorup, FOCS 2017, algorithm 1). Copies would hide a shingle of
// a short document that shares its bin with a smaller one, and so miss twins. After kBins throws each
// empty bin takes the smallest shingle of all.
inline void sketch(const std::vector<uint64_t>& shingles, uint32_t* signature) {
  std::fill(signature, signature + kBins, UINT32_MAX);
  bool done[kBins] = {};
  int64_t left = kBins;
  // The first throw takes the shingle as it is: it is a hash already.
  const auto hash = [](uint64_t shingle, int64_t round) {
    return round ? mix64(shingle + static_cast<uint64_t>(round) * 0x9E3779B97F4A7C15ULL) : shingle;
  };
  for (int64_t round = 0; round < kBins && left; ++round) {
    for (const uint64_t shingle : shingles) {
      const uint64_t h = hash(shingle, round);
      const size_t bin = static_cast<size_t>(h >> 57);
      if (!done[bin]) signature[bin] = std::min(signature[bin], static_cast<uint32_t>(h));
    }
    left = 0;
    for (int64_t bin = 0; bin < kBins; ++bin) {
      done[bin] = signature[bin] != UINT32_MAX;
      left += !done[bin];
    }
  }
  for (int64_t bin = 0; bin < kBins && left; ++bin) {
    if (done[bin]) continue;
    for (const uint64_t shingle : shingles)
      signature[bin] = std::min(signature[bin], static_cast<uint32_t>(hash(shingle, kBins + bin)));
  }
}

}  // namespace sectow
