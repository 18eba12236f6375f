"""Names, coverage and buckets, without an engine."""

from __future__ import annotations

import pytest
import torch

from sectow_fast.config import Config
from sectow_fast.engine.sglang_host import clean_environment
from sectow_fast.engine.weight_sync import buckets, checkpoint_weights, covered, folder_shapes


@pytest.fixture
def shapes(stage, model, tmp_path):
    stage.save(model, tmp_path / "model")
    return folder_shapes(tmp_path / "model")


def test_every_parameter_goes_once_under_its_checkpoint_name(model, shapes):
    named = covered(checkpoint_weights(model), shapes)
    assert [name for name, _ in named] == sorted(shapes)
    sent = {tensor.data_ptr() for _, tensor in named}
    assert sent == {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w, n: w.pop(n), "1 parameters missing"),
        (lambda w, n: w.update(strange=torch.ones(3)), "1 parameters unknown"),
        (lambda w, n: w.update({n: torch.ones(3, 7)}), "1 parameters of another shape"),
    ],
)
def test_what_is_amiss_is_named(model, shapes, change, words):
    weights = checkpoint_weights(model)
    change(weights, sorted(shapes)[5])
    with pytest.raises(RuntimeError, match=words):
        covered(weights, shapes)


@pytest.mark.parametrize("limit", [1, 200_000, 2**30])
def test_buckets_hold_the_same_tensors_however_they_are_cut(model, shapes, limit):
    named = dict(covered(checkpoint_weights(model), shapes))
    named["half"] = torch.randn(5).half()
    named["odd"] = torch.randn(3, 3).bfloat16()
    back = {}
    count = 0
    for bucket in buckets(named.items(), limit, torch.device("cpu")):
        count += 1
        for piece in bucket.pieces:
            data = bucket.data[piece.start : piece.end].view(getattr(torch, piece.dtype))
            back[piece.name] = data.view(piece.shape)
        assert bucket.data.is_shared()
        # A tensor over the limit has a bucket of its own; alignment adds under 16 bytes a tensor.
        assert len(bucket.pieces) == 1 or bucket.data.numel() < limit + 16 * len(bucket.pieces)
    assert count == (1 if limit == 2**30 else len(named) if limit == 1 else count)
    assert list(back) == list(named)
    for name, tensor in named.items():
        assert torch.equal(back[name], tensor)


def test_the_engines_environment_is_cleaned():
    given = {
        "HOME": "/home/x",
        "RANK": "3",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "SGLANG_VLM_CACHE_SIZE_MB": "100",
    }
    cleaned = clean_environment(given, {"A": "1"})
    assert cleaned == {"HOME": "/home/x", "SGLANG_VLM_CACHE_SIZE_MB": "0", "A": "1"}


def test_sglang_turns_truncated_importance_sampling_on_unless_told_otherwise():
    assert Config().attack.loss.tis_cap is None
    on = Config.model_validate({"engine": {"kind": "sglang"}})
    assert on.attack.loss.tis_cap == on.defend.loss.tis_cap == 2.0
    told = Config.model_validate(
        {"engine": {"kind": "sglang"}, "attack": {"loss": {"tis_cap": 5.0}}}
    )
    assert (told.attack.loss.tis_cap, told.defend.loss.tis_cap) == (5.0, 2.0)
