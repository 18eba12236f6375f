// Bindings of prompt priority, group selection and packing. Shapes and ranges were checked by
// sectow_fast/native/priority.py and batches.py.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "bindings.hpp"
#include "packing.hpp"
#include "priority.hpp"

namespace py = pybind11;

namespace sectow {
namespace {

using Ints = py::array_t<int64_t, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;

template <typename T>
std::vector<T> copied(const py::array_t<T, py::array::c_style>& array) {
  return {array.data(), array.data() + array.size()};
}

template <typename T>
py::array_t<T> as_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::array_t<bool> select_groups(const Doubles& rewards, const Ints& offsets) {
  const py::ssize_t groups = offsets.size() - 1;
  py::array_t<bool> out(groups);
  const double* reward = rewards.data();
  const int64_t* offset = offsets.data();
  bool* kept = out.mutable_data();
  py::gil_scoped_release release;
  for (py::ssize_t g = 0; g < groups; ++g) {
    const double* begin = reward + offset[g];
    const double* end = reward + offset[g + 1];
    kept[g] = std::any_of(begin, end, [&](double one) { return one != *begin; });
  }
  return out;
}

py::tuple packs_of(const Ints& costs, int64_t budget, int64_t ranks) {
  const std::vector<int64_t> wanted = copied(costs);
  Packs packs;
  {
    py::gil_scoped_release release;
    packs = pack_groups(wanted, budget, ranks);
  }
  return py::make_tuple(as_array(packs.pack), as_array(packs.rank));
}

void set_statistics(PrioritySampler& sampler, const Doubles& successes, const Doubles& trials) {
  sampler.successes = copied(successes);
  sampler.trials = copied(trials);
  sampler.rebuild();
}

}  // namespace

void bind_batches(py::module_& module) {
  module.def("select_groups", &select_groups);
  module.def("pack_groups", &packs_of);
  // Its calls take microseconds and change the sampler, so they keep the GIL.
  py::class_<PrioritySampler>(module, "PrioritySampler")
      .def(py::init([](const py::array_t<int32_t, py::array::c_style>& strata, int32_t count,
                       uint64_t seed, double exploration, double decay) {
        return PrioritySampler(copied(strata), count, seed, exploration, decay);
      }))
      .def("sample",
           [](PrioritySampler& sampler, int64_t n, uint64_t step) {
             return as_array(sampler.sample(n, step));
           })
      .def("update",
           [](PrioritySampler& sampler, const Ints& prompts, const Doubles& won,
              const Doubles& tried) {
             for (py::ssize_t i = 0; i < prompts.size(); ++i)
               sampler.update(prompts.at(i), won.at(i), tried.at(i));
           })
      .def("successes", [](const PrioritySampler& sampler) { return as_array(sampler.successes); })
      .def("trials", [](const PrioritySampler& sampler) { return as_array(sampler.trials); })
      .def("restore", &set_statistics);
}

}  // namespace sectow
