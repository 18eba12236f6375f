"""Builds the C++ extension and puts kernels/ beside its shim; the rest is pyproject.toml."""

import shutil
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithShim(build_py):
    """A wheel holds the kernel sources and their `__init__.py` in one folder."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shim = Path("sectow_fast/kernels/__init__.py")
            target = Path(self.build_lib) / shim
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shim, target)


packages = find_packages(include=["sectow_fast", "sectow_fast.*"])
setup(
    packages=packages,
    cmdclass={"build_py": BuildWithShim},
    ext_modules=[
        Pybind11Extension(
            "sectow_fast._C",
            sorted(map(str, Path("csrc").glob("*.cpp"))),
            depends=sorted(map(str, Path("csrc").glob("*.hpp"))),
            include_dirs=["csrc"],
            cxx_std=17,
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-Werror"],
            extra_link_args=["-pthread"],
        )
    ],
)
