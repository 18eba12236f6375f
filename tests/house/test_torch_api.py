"""What the package uses of torch, transformers and Triton is there, in whatever versions run this.

The question itself is put by the first stage of `make gpu-check`, whose rehearsal is a test too
(test_gpu_check.py), and at the end of `make gpu`.
"""

from __future__ import annotations

from bench.gpu_check import names

SOURCE = """
import torch
import torch.nn.functional as F
import numpy as np
from torch.distributed.fsdp import fully_shard as shard
from transformers import AutoConfig
from .mine import torch as other

def f(x):
    import triton.language as tl
    shard(x, mesh=1)
    np.pad(x, out=2)
    other.gone()
    return torch.library.custom_op("a", mutates_args=()), F.pad(x, (1, 1), value=0), tl.where
"""


def test_names_and_keywords_of_a_file():
    found: dict[str, set[str]] = {}
    for name, keywords in names.names_in(SOURCE):
        found.setdefault(name, set()).update(keywords)
    assert found == {
        "torch": set(),
        "torch.nn.functional": set(),
        "torch.distributed.fsdp.fully_shard": {"mesh"},
        "transformers.AutoConfig": set(),
        "triton.language": set(),
        "triton.language.where": set(),
        "torch.library.custom_op": {"mutates_args"},
        "torch.nn.functional.pad": {"value"},
    }


def test_what_is_not_there_is_named():
    asked = {
        "torch.no_such": set(),
        "torch.no_module.name": set(),
        "torch.nn.Linear": {"no_keyword", "bias"},
        "torch.zeros": {"tells_nothing"},
        "torch.utils.tensorboard.SummaryWriter": set(),
    }
    lost = names.missing(asked)
    assert [one.partition(":")[0] for one in lost] == [
        "torch.no_such",
        "torch.no_module.name",
        "torch.nn.Linear(no_keyword=)",
    ]


def test_the_newest_names_that_training_rests_on_are_found_in_its_files():
    """So that an empty list cannot pass; these folders are among those that are asked about."""
    folders = ("sectow_fast/learn", "kernels")
    assert {one.split("/")[0] for one in folders} < set(names.SOURCES)
    wanted = names.collect([names.ROOT / one for one in folders])
    assert "torch.distributed.fsdp.fully_shard" in wanted
    assert "mutates_args" in wanted["torch.library.custom_op"]
    assert "out_dtype" in wanted["torch.addmm"]
