"""Builds the C++ extension and puts kernels/ beside its shim; the rest is pyproject.toml."""

import os
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


# SECTOW_SANITIZE=address,undefined (or thread): see `make sanitize`.
SANITIZE = os.environ.get("SECTOW_SANITIZE")
FLAGS = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-g", "-O1"] if SANITIZE else []

packages = find_packages(include=["sectow_fast", "sectow_fast.*"])
setup(
    packages=packages,
    cmdclass={"build_py": BuildWithShim},
    ext_modules=[
        Pybind11Extension(
            "sectow_fast._C",
            sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").glob("*.hpp")),
            include_dirs=["csrc"],
            cxx_std=17,
            extra_compile_args=["-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", *FLAGS],
            extra_link_args=["-pthread", *FLAGS],
        )
    ],
)
