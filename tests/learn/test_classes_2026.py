from __future__ import annotations

import pytest
import torch
from alone import check_rows
from classes_2026 import CLASSES, Pictures
from families import sample

from sectow_fast.learn.policy import Policy
from sectow_fast.learn.selftest import check_packing


def made_for(model):
    """Groups of a wide picture, of words alone, and of several pictures (or a tall one)."""
    made = sample(model, Pictures)
    last = 2 if made.codec.family.name == "llava_onevision" else 4
    made.groups = [made.groups[i] for i in (0, 1, last)]
    return made


@pytest.fixture(params=CLASSES)
def tiny(request):
    torch.manual_seed(3)
    return CLASSES[request.param]()


def test_the_self_test_accepts_it_and_rows_equal_separate_forwards_in_every_gradient(tiny):
    made = made_for(tiny)
    worst = check_packing(Policy(tiny, made.codec), [prompt for prompt, _ in made.groups])
    assert 0 <= worst < 1e-5
    gaps, slopes = check_rows(tiny, made, 110)
    print(type(tiny).__name__, worst, gaps, slopes)
