#include "priority.hpp"

#include <utility>

#include "philox.hpp"

namespace sectow {

SumTree::SumTree(std::size_t leaves) {
  while (size_ < leaves) size_ *= 2;
  sum_.assign(2 * size_, 0.0);
}

void SumTree::set(std::size_t leaf, double value) {
  std::size_t node = size_ + leaf;
  sum_[node] = value;
  for (node /= 2; node >= 1; node /= 2) sum_[node] = sum_[2 * node] + sum_[2 * node + 1];
}

size_t SumTree::find(double target) const {
  std::size_t node = 1;
  while (node < size_) {
    node *= 2;
    // An empty right side is never entered, however the target was rounded.
    if (target >= sum_[node] && sum_[node + 1] > 0.0) {
      target -= sum_[node];
      ++node;
    }
  }
  return node - size_;
}

PrioritySampler::PrioritySampler(std::vector<int32_t> strata, int32_t count, uint64_t seed,
                                 double exploration, double decay)
    : successes(strata.size(), 0.0),
      trials(strata.size(), 0.0),
      seed_(seed),
      exploration_(exploration),
      decay_(decay) {
  std::vector<std::vector<int64_t>> members(static_cast<std::size_t>(count));
  place_.reserve(strata.size());
  for (std::size_t prompt = 0; prompt < strata.size(); ++prompt) {
    auto& own = members[static_cast<std::size_t>(strata[prompt])];
    place_.push_back({strata[prompt], static_cast<int32_t>(own.size())});
    own.push_back(static_cast<int64_t>(prompt));
  }
  for (auto& own : members) {
    const std::size_t size = own.size();
    strata_.push_back({std::move(own), SumTree(size), SumTree(size)});
  }
  rebuild();
}

double PrioritySampler::priority(int64_t prompt) const {
  // Laplace's rule: what was never tried counts as 1/2, the most uncertain value.
  const std::size_t at = static_cast<std::size_t>(prompt);
  const double p = (successes[at] + 1.0) / (trials[at] + 2.0);
  return p * (1.0 - p);
}

void PrioritySampler::rebuild() {
  for (std::size_t prompt = 0; prompt < place_.size(); ++prompt) {
    auto& stratum = strata_[static_cast<std::size_t>(place_[prompt].stratum)];
    const std::size_t leaf = static_cast<std::size_t>(place_[prompt].leaf);
    stratum.uniform.set(leaf, 1.0);
    stratum.priority.set(leaf, priority(static_cast<int64_t>(prompt)));
  }
}

void PrioritySampler::update(int64_t prompt, double won, double tried) {
  const std::size_t at = static_cast<std::size_t>(prompt);
  successes[at] = decay_ * successes[at] + won;
  trials[at] = decay_ * trials[at] + tried;
  const Place place = place_[at];
  strata_[static_cast<std::size_t>(place.stratum)].priority.set(static_cast<std::size_t>(place.leaf),
                                                           priority(prompt));
}

std::vector<int64_t> PrioritySampler::sample(int64_t n, uint64_t step) {
  std::vector<int64_t> drawn;
  std::vector<std::size_t> left;
  for (const auto& stratum : strata_) left.push_back(stratum.prompts.size());
  const std::size_t count = strata_.size();
  // Strata take turns. The first one changes with the step, so that a short batch favours none.
  std::size_t turn = static_cast<std::size_t>(step % count);
  for (uint64_t draw = 0; static_cast<int64_t>(drawn.size()) < n; ++draw) {
    while (left[turn] == 0) turn = (turn + 1) % count;
    Stratum& stratum = strata_[turn];
    const bool explores = uniform(seed_, 2 * draw, step) < exploration_;
    SumTree& tree = explores ? stratum.uniform : stratum.priority;
    const std::size_t leaf = tree.find(uniform(seed_, 2 * draw + 1, step) * tree.total());
    drawn.push_back(stratum.prompts[leaf]);
    stratum.uniform.set(leaf, 0.0);
    stratum.priority.set(leaf, 0.0);
    --left[turn];
    turn = (turn + 1) % count;
  }
  for (const int64_t prompt : drawn) {
    const Place place = place_[static_cast<std::size_t>(prompt)];
    auto& stratum = strata_[static_cast<std::size_t>(place.stratum)];
    stratum.uniform.set(static_cast<std::size_t>(place.leaf), 1.0);
    stratum.priority.set(static_cast<std::size_t>(place.leaf), priority(prompt));
  }
  return drawn;
}

}  // namespace sectow
