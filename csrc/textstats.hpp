// How alike and how repetitive documents of token ids are. N-grams are compared exactly.
#pragma once

#include <cstdint>

#include "documents.hpp"

namespace sectow {

// BLEU of each document against all others, in 0..1 (sacrebleu's, see sectow_fast/native/text.py).
void self_bleu(const Documents& documents, int64_t order, double* out);

// Distinct n-grams over n-grams, over all documents; 0 where there are none.
double distinct_n(const Documents& documents, int64_t n);

// The share of each document's n-grams that occurred before in it; 0 where it has none.
void repetition(const Documents& documents, int64_t n, int64_t threads, double* out);

}  // namespace sectow
