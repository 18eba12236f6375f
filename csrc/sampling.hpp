// Token sampling from logits, one row at a time. See sectow_fast/native/sampling.py.
#pragma once

#include <cstdint>
#include <string>

namespace sectow {

struct SamplingOptions {
  double temperature;  // 0: greedy, ties to the lowest id
  int64_t top_k;       // 0: off
  double top_p;        // 1: off
  double min_p;        // 0: off
};

// Draws one token of logits[0..vocabulary) with the uniform u in [0, 1). Writes the token and its
// log-probability over the full vocabulary at the temperature (1 where greedy), before truncation.
// Returns an empty string, or what is wrong with the row.
std::string sample_row(const float* logits, int64_t vocabulary, const SamplingOptions& options,
                       double u, int32_t* token, float* logprob);

}  // namespace sectow
