"""A head whose vocabulary is cut over two and over four ranks gives what one rank gives."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.multiprocessing as mp
import vocabulary_ranks
from vocabulary_ranks import play, work


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Four forks play both worlds: two groups of two, and one of four."""
    assert "vocabulary_ranks" in sys.modules and vocabulary_ranks.work is work
    folder = str(tmp_path_factory.mktemp("ranks"))
    mp.start_processes(work, (4, folder), nprocs=4, start_method="fork")
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(4)]


@pytest.mark.parametrize("world", [2, 4])
def test_every_rank_has_the_results_of_one(ranks, world):
    wanted = play(0, 1, None)
    for name, truth in wanted.items():
        *results, hidden, weight, bias = truth
        found = [one[world][name] for one in ranks[:world]]
        for mine in found:
            torch.testing.assert_close(mine[: len(results)], results, msg=lambda m, n=name: n + m)
            torch.testing.assert_close(mine[-3], hidden, msg=lambda m, n=name: n + m)
        for at, whole in ((-2, weight), (-1, bias)):
            if whole is not None:
                joined = torch.cat([mine[at] for mine in found])
                torch.testing.assert_close(joined, whole, msg=lambda m, n=name: n + m)
    assert torch.equal(ranks[0][4]["full all"][1], ranks[3][4]["full all"][1])


def test_what_does_not_fit_is_named(ranks):
    for one in ranks:
        sizes, label, group = one["refusals"]
        assert "weight: found [10, 11] rows" in sizes and "pad the vocabulary" in sizes
        assert "labels[0]: found 20, expected 0..19" in label
        assert "group: found a process group without this rank" in group or "group: found" in group
