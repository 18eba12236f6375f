// The Python module sectow_fast._C. Checks shapes, releases the GIL, splits rows over threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bind_text.hpp"
#include "philox.hpp"
#include "sampling.hpp"

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
  const int64_t work = rows * vocabulary;
  const int64_t hardware = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t wanted = threads > 0 ? threads : (work < (int64_t{1} << 18) ? 1 : hardware);
  const int64_t count = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(rows, 1));
  std::vector<std::string> problems(static_cast<size_t>(count));
  {
    py::gil_scoped_release release;
    const auto run = [&](int64_t worker) {
      for (int64_t row = rows * worker / count; row < rows * (worker + 1) / count; ++row) {
        const double u = sectow::uniform(seed_per_row ? seed[row] : seed[0],
                                         seed_per_row ? 0 : static_cast<uint64_t>(row), step);
        const std::string problem =
            sectow::sample_row(in + row * vocabulary, vocabulary, options, u, out + row, logp + row);
        if (!problem.empty()) {
          problems[static_cast<size_t>(worker)] =
              "logits row " + std::to_string(row) + ": " + problem;
          return;
        }
      }
    };
    std::vector<std::thread> pool;
    for (int64_t worker = 1; worker < count; ++worker) pool.emplace_back(run, worker);
    run(0);
    for (auto& thread : pool) thread.join();
  }
  for (const auto& problem : problems)
    if (!problem.empty()) throw py::value_error(problem);
  return py::make_tuple(ids, logprobs);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "C++ core of sectow_fast; import it through sectow_fast.native";
  module.def("sample_tokens", &sample_tokens, py::arg("logits").noconvert(), py::arg("seeds").noconvert(),
             py::arg("seed_per_row"), py::arg("step"), py::arg("temperature"), py::arg("top_k"),
             py::arg("top_p"), py::arg("min_p"), py::arg("threads"));
  bind_text(module);
}
