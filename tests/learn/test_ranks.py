"""Two processes over gloo: the same update, the same samples, and checkpoints that both read."""

from __future__ import annotations

import types
import weakref
from pathlib import Path

import commands
import pytest
import torch

from sectow_fast.learn import checkpoint
from sectow_fast.learn.sharding import on_host

SCRIPT = Path(__file__).with_name("two_ranks.py")


def started(world, *arguments):
    commands.run_ranks(SCRIPT, *arguments, world=world)
    saved = checkpoint.load(Path(arguments[0]))
    weights = {name: torch.zeros(_shape(saved, name)) for name in saved.names["model"]}
    saved.fill("model", weights)
    return saved.state["log"], weights


def _shape(saved, name):
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    metadata = HuggingFaceStorageReader(str(saved.path)).read_metadata()
    return metadata.state_dict_metadata[f"model/{name}"].size


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, *started(1, folder)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return folder, *started(2, folder)


def assert_same_run(first, second):
    for mine, theirs in zip(first, second, strict=True):
        assert mine["ids"] == theirs["ids"]
        for kind in ("grpo", "sft"):
            assert mine[kind].keys() == theirs[kind].keys()
            assert mine[kind]["grad_norm"] > 0.01
            for name in mine[kind].keys() - {"tokens_trained"}:  # prompts are repeated where cut
                value = mine[kind][name]
                # A token's place in a row is not the same, so sums are in another order.
                assert theirs[kind][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=1e-4, msg=name)


def test_two_ranks_sample_and_train_as_one_does(alone, together):
    assert_same_run(alone[1], together[1])
    assert_same_weights(alone[2], together[2])


def test_rollouts_are_compared_by_all_ranks_together(alone, together):
    """Each token once: what a rank repeats for company does not count twice."""
    for one, two in zip(alone[1], together[1], strict=True):
        assert len(one["gaps"]) == len(two["gaps"]) == sum(map(len, one["ids"][::3]))
        assert max(one["gaps"] + two["gaps"]) < 1e-4


def test_each_rank_wrote_its_share(together):
    assert len(list(together[0].glob("checkpoint-*/*.safetensors"))) == 2


def test_a_run_goes_on_with_another_number_of_ranks(alone, together, tmp_path):
    same = started(1, tmp_path / "1-1", alone[0])
    for name, world, begun in (("2-1", 1, together[0]), ("1-2", 2, alone[0])):
        other = started(world, tmp_path / name, begun)
        assert_same_run(same[0], other[0])
        assert_same_weights(same[1], other[1])


class Shards:
    """Stands for a sharded tensor: what it gathers is new, and counted while it lives."""

    alive = 0
    device_mesh = types.SimpleNamespace(device_type="cpu")

    def to(self, device, dtype):
        return self

    def full_tensor(self):
        assert Shards.alive == 0, "an earlier tensor is still held"
        Shards.alive += 1
        whole = torch.ones(4)
        weakref.finalize(whole, Shards._gone)
        return whole

    @staticmethod
    def _gone():
        Shards.alive -= 1


def test_a_rank_that_does_not_save_holds_one_whole_tensor_at_a_time():
    assert on_host(((str(i), Shards()) for i in range(3)), keep=False) == {}
    assert Shards.alive == 0


def test_tied_weights_stay_one_tensor_in_host_memory():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    found = on_host(model.state_dict(keep_vars=True).items(), keep=True)
    assert found.keys() == model.state_dict().keys()
    assert found["1.weight"] is found["0.weight"] and found["1.bias"] is not found["0.bias"]
    assert torch.equal(found["0.weight"], model[0].weight)
