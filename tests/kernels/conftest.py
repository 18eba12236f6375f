"""The two ways a kernel can go here: plain torch, and Triton through its interpreter."""

from __future__ import annotations

import contextlib

import pytest
import torch

from sectow_fast.kernels import dispatch


@pytest.fixture(params=["plain", "triton"])
def path(request):
    """Everything in the test takes this path; memory that is not written reads as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # with fill_uninitialized_memory, which is the default
    way = contextlib.nullcontext()
    if request.param == "triton":
        if torch.cuda.is_available():
            pytest.skip("Triton is compiled here, not interpreted: tests/kernels/test_gpu.py")
        pytest.importorskip("triton")
        way = dispatch.interpreted()
    with way:
        yield request.param
    torch.use_deterministic_algorithms(before)
