// Bindings of duplicates and text statistics. Arguments were checked by sectow_fast/native/text.py.

#include <pybind11/numpy.h>

#include <cstdint>
#include <mutex>
#include <vector>

#include "bindings.hpp"
#include "duplicates.hpp"
#include "textstats.hpp"

namespace py = pybind11;

namespace {

using Tokens = py::array_t<int32_t, py::array::c_style>;
using Longs = py::array_t<int64_t, py::array::c_style>;

sectow::Documents view(const Tokens& tokens, const Longs& offsets) {
  return {tokens.data(), offsets.data(), offsets.shape(0) - 1};
}

template <class T>
py::array_t<T> copied(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// One call at a time, also where several Python threads share an index. The lock is taken after
// the GIL is released, or the holder could wait for the GIL and the waiter for the lock.
class Index {
 public:
  Index(int64_t ngram, double threshold) : index_(ngram, threshold) {}

  py::tuple add(const Tokens& tokens, const Longs& offsets, int64_t threads) {
    const auto documents = view(tokens, offsets);
    py::array_t<bool> added(documents.count);
    Longs match(documents.count);
    bool* out = added.mutable_data();
    int64_t* twin = match.mutable_data();
    {
      py::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      index_.add(documents, threads, out, twin);
    }
    return py::make_tuple(added, match);
  }

  Longs query(const Tokens& tokens, const Longs& offsets, int64_t threads) {
    const auto documents = view(tokens, offsets);
    Longs match(documents.count);
    int64_t* twin = match.mutable_data();
    {
      py::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      index_.query(documents, threads, twin);
    }
    return match;
  }

  int64_t size() {
    py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<int64_t>(index_.numbers().size());
  }

  py::tuple state() {
    std::vector<int64_t> numbers, offsets;
    std::vector<int32_t> tokens;
    int64_t seen = 0;
    {
      py::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      numbers = index_.numbers(), offsets = index_.offsets(), tokens = index_.tokens();
      seen = index_.seen();
    }
    return py::make_tuple(seen, copied(numbers), copied(tokens), copied(offsets));
  }

  void restore(int64_t seen, const Longs& numbers, const Tokens& tokens, const Longs& offsets) {
    const auto documents = view(tokens, offsets);
    const int64_t* number = numbers.data();
    py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    index_.restore(documents, number, seen, 0);
  }

 private:
  std::mutex mutex_;
  sectow::DuplicateIndex index_;
};

py::ssize_t count_of(const Longs& offsets) { return offsets.shape(0) - 1; }

py::array_t<double> self_bleu(const Tokens& tokens, const Longs& offsets, int64_t order) {
  py::array_t<double> out(count_of(offsets));
  const auto documents = view(tokens, offsets);
  double* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    sectow::self_bleu(documents, order, data);
  }
  return out;
}

double distinct_n(const Tokens& tokens, const Longs& offsets, int64_t n) {
  const auto documents = view(tokens, offsets);
  py::gil_scoped_release release;
  return sectow::distinct_n(documents, n);
}

py::array_t<double> repetition(const Tokens& tokens, const Longs& offsets, int64_t n, int64_t threads) {
  py::array_t<double> out(count_of(offsets));
  const auto documents = view(tokens, offsets);
  double* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    sectow::repetition(documents, n, threads, data);
  }
  return out;
}

}  // namespace

void sectow::bind_text(py::module_& module) {
  const auto tokens = py::arg("tokens").noconvert();
  const auto offsets = py::arg("offsets").noconvert();
  py::class_<Index>(module, "DuplicateIndex")
      .def(py::init<int64_t, double>(), py::arg("ngram"), py::arg("threshold"))
      .def("add", &Index::add, tokens, offsets, py::arg("threads"))
      .def("query", &Index::query, tokens, offsets, py::arg("threads"))
      .def("__len__", &Index::size)
      .def("state", &Index::state)
      .def("restore", &Index::restore, py::arg("seen"), py::arg("numbers").noconvert(), tokens,
           offsets);
  module.def("self_bleu", &::self_bleu, tokens, offsets, py::arg("order"));
  module.def("distinct_n", &::distinct_n, tokens, offsets, py::arg("n"));
  module.def("repetition", &::repetition, tokens, offsets, py::arg("n"), py::arg("threads"));
}
