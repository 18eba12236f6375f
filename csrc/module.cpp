// The Python module sectow_fast._C. Checks shapes, releases the GIL, splits rows over threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "philox.hpp"
#include "sampling.hpp"
#include "threads.hpp"

namespace py = pybind11;

namespace {

using Logits = py::array_t<float, py::array::c_style>;
using Seeds = py::array_t<uint64_t, py::array::c_style>;

// rows: mixed into the counter where one seed serves all rows, 0 where each row has its own.
py::tuple sample_tokens(const Logits& logits, const Seeds& seeds, bool seed_per_row, uint64_t step,
                        double temperature, int64_t top_k, double top_p, double min_p,
                        int64_t threads) {
  const int64_t rows = logits.shape(0), vocabulary = logits.shape(1);
  py::array_t<int32_t> ids(rows);
  py::array_t<float> logprobs(rows);
  const float* in = logits.data();
  const uint64_t* seed = seeds.data();
  int32_t* out = ids.mutable_data();
  float* logp = logprobs.mutable_data();
  const sectow::SamplingOptions options{temperature, top_k, top_p, min_p};
  // A row of a small vocabulary is too little work for a thread.
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 17) / vocabulary);
  std::vector<std::string> problems(static_cast<size_t>(rows));
  {
    py::gil_scoped_release release;
    const int64_t workers = sectow::worker_count(rows, threads, grain);
    sectow::parallel_for(rows, workers, grain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const double u = sectow::uniform(seed_per_row ? seed[row] : seed[0],
                                         seed_per_row ? 0 : static_cast<uint64_t>(row), step);
        problems[static_cast<size_t>(row)] =
            sectow::sample_row(in + row * vocabulary, vocabulary, options, u, out + row, logp + row);
      }
    });
  }
  for (int64_t row = 0; row < rows; ++row) {
    const std::string& problem = problems[static_cast<size_t>(row)];
    if (!problem.empty())
      throw py::value_error("logits row " + std::to_string(row) + ": " + problem);
  }
  return py::make_tuple(ids, logprobs);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "C++ core of sectow_fast; import it through sectow_fast.native";
  module.def("sample_tokens", &sample_tokens, py::arg("logits").noconvert(), py::arg("seeds").noconvert(),
             py::arg("seed_per_row"), py::arg("step"), py::arg("temperature"), py::arg("top_k"),
             py::arg("top_p"), py::arg("min_p"), py::arg("threads"));
  sectow::bind_batches(module);
  sectow::bind_text(module);
}
