// Token ids of many documents in CSR form, and the mixer that their hashes are made with.
#pragma once

#include <cstdint>

namespace sectow {

// A view: document d is tokens[offsets[d]..offsets[d + 1]). The caller has checked the offsets.
struct Documents {
  const int32_t* tokens;
  const int64_t* offsets;
  int64_t count;

  const int32_t* begin(int64_t d) const { return tokens + offsets[d]; }
  int64_t length(int64_t d) const { return offsets[d + 1] - offsets[d]; }
};

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64-bit words.
inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

}  // namespace sectow
