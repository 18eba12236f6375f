"""The device that trains, and host memory that it reads fast."""

from __future__ import annotations

import pytest
import torch

from sectow_fast.learn.placement import pin, training_device
from sectow_fast.types import UserError


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(UserError, match=r"learn\.device cuda: found no GPU"):
        training_device("cuda")
    assert training_device("auto") == training_device("cpu") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_host_memory_is_locked_where_it_is():
    large, small = torch.ones(3 * 2**20 // 4), torch.ones(4)
    place = large.data_ptr()
    assert pin([large, small]) == 3 * 2**20
    assert large.is_pinned() and large.data_ptr() == place and not small.is_pinned()
