"""The published benchmarks, each read from the user's folder. Nothing of them is shipped.

A suite is one file here that names its suite `SUITE`; the registry finds it by that name. A file
outside the package registers its suite by `register_suite`.
"""

from sectow_fast.data.suites.cases import Suite, SuiteCase, SuiteInfo
from sectow_fast.data.suites.registry import (
    OpenSuite,
    SuiteSpec,
    open_suite,
    register_suite,
    suites,
)
from sectow_fast.data.suites.typeset import render_steps

__all__ = [
    "OpenSuite",
    "Suite",
    "SuiteCase",
    "SuiteInfo",
    "SuiteSpec",
    "open_suite",
    "register_suite",
    "render_steps",
    "suites",
]
