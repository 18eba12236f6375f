// Bin packing of groups into token budgets. See sectow_fast/native/batches.py for the contract.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sectow {

struct Packs {
  std::vector<int32_t> pack;  // of each group
  std::vector<int32_t> rank;  // of each pack
};

// First-fit decreasing is enough: groups are short beside a budget, so best-fit would save nothing.
// costs: tokens of each group, > 0. A group over the budget is a pack of its own.
Packs pack_groups(const std::vector<int64_t>& costs, int64_t budget, int64_t ranks);

}  // namespace sectow
