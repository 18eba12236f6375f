// What each family of functions adds to the module sectow_fast._C.
#pragma once

#include <pybind11/pybind11.h>

namespace sectow {

void bind_batches(pybind11::module_& module);
void bind_text(pybind11::module_& module);

}  // namespace sectow
