"""Names, coverage and buckets, without an engine."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

from sectow_fast.config import Config
from sectow_fast.engine.sglang_host import clean_environment
from sectow_fast.engine.weight_sync import (
    Bucket,
    Piece,
    buckets,
    checkpoint_weights,
    config_shapes,
    covered,
    in_host_memory,
    needs_peers,
)

sys.path.append(str(Path(__file__).parents[1] / "learn"))
import families


def folder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """name -> shape of every tensor in a saved model's files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a file, not a dict
                shapes[name] = tuple(file.get_slice(name).get_shape())
    assert shapes
    return shapes


@pytest.fixture
def shapes(stage, model, tmp_path):
    stage.save(model, tmp_path / "model")
    return folder_shapes(tmp_path / "model")


def test_a_configuration_alone_gives_the_names_and_shapes_of_the_checkpoint(
    stage, shapes, tmp_path
):
    stage.describe(tmp_path / "described")
    assert config_shapes(tmp_path / "described") == shapes


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_names_from_a_configuration_for_every_family(name, tied, tmp_path):
    config = getattr(families, name)().config
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = tied
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(tmp_path)
    expected = folder_shapes(tmp_path)
    assert config_shapes(tmp_path) == expected
    covered(checkpoint_weights(model), expected)


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


def test_weights_are_laid_in_rounded_to_the_engines_dtype(model, shapes):
    named = dict(covered(checkpoint_weights(model), shapes)) | {"count": torch.arange(5)}
    limit = 100_000
    back, sizes = {}, []
    for bucket in buckets(named.items(), limit, torch.device("cpu"), torch.bfloat16):
        sizes.append(bucket.data.numel())
        for piece in bucket.pieces:
            data = bucket.data[piece.start : piece.end].view(getattr(torch, piece.dtype))
            back[piece.name] = data.view(piece.shape)
    assert list(back) == list(named)
    for name, tensor in named.items():
        wanted = tensor if name == "count" else tensor.bfloat16()
        assert back[name].dtype == wanted.dtype and torch.equal(back[name], wanted), name
    whole = sum(t.numel() * t.element_size() for t in named.values())
    assert sum(sizes) < 0.51 * whole + 16 * len(named)
    # Buckets are filled by what is laid in, not by what it was.
    assert sum(size > 0.6 * limit for size in sizes) >= len(sizes) // 2


def test_the_first_three_names_of_many_are_told():
    weights = {name: torch.ones(1) for name in "edcba"}
    words = r"found 5 parameters unknown \(a, b, c\), expected each parameter"
    with pytest.raises(RuntimeError, match=words):
        covered(weights, {})


def test_a_second_name_of_a_tied_tensor_is_left_out_and_of_a_copy_is_not():
    weight = torch.ones(2, 3)
    sent = covered({"head": weight, "embedding": weight}, {"embedding": (2, 3)})
    assert [name for name, _ in sent] == ["embedding"]
    for other in (weight.clone(), weight.t(), weight[:1]):
        with pytest.raises(RuntimeError, match=r"1 parameters unknown \(head\)"):
            covered({"head": other, "embedding": weight}, {"embedding": (2, 3)})


def test_a_bucket_is_filled_to_its_last_byte():
    named = [(name, torch.ones(4)) for name in "abcdef"]  # 16 bytes each

    def cut(limit):
        return [
            "".join(piece.name for piece in bucket.pieces)
            for bucket in buckets(named, limit, torch.device("cpu"))
        ]

    assert cut(32) == ["ab", "cd", "ef"] and cut(47) == ["ab", "cd", "ef"]
    assert cut(48) == ["abc", "def"] and cut(31) == list("abcdef")


def test_tensors_start_on_multiples_of_sixteen_bytes():
    named = [("a", torch.ones(5).half()), ("b", torch.ones(2, 3)), ("c", torch.ones(4))]
    ((bucket),) = buckets(named, 1000, torch.device("cpu"))
    places = [(p.name, p.shape, p.dtype, p.start, p.end) for p in bucket.pieces]
    assert places == [
        ("a", (5,), "float16", 0, 10),
        ("b", (2, 3), "float32", 16, 40),
        ("c", (4,), "float32", 48, 64),
    ]
    assert bucket.data.shape == (64,) and bucket.data.dtype == torch.uint8


def test_buckets_are_made_on_the_engines_device():
    ((bucket),) = buckets([("a", torch.ones(5))], 1000, torch.device("meta"))
    assert bucket.data.device.type == "meta"


@pytest.fixture
def sharded():
    """sharded(tensor): the same over a mesh of one process, as FSDP2 holds it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    mesh = init_device_mesh("cpu", (1,))
    yield lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])
    torch.distributed.destroy_process_group()


def test_sharded_weights_go_whole_and_tied_ones_once(sharded):
    weight = sharded(torch.arange(6.0).view(2, 3))
    again = type(weight).from_local(weight.to_local(), weight.device_mesh, weight.placements)
    named = covered({"head": again, "embedding": weight}, {"embedding": (2, 3)})
    ((bucket),) = buckets(named, 1000, torch.device("cpu"))
    assert bucket.data.view(torch.float32)[:6].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(RuntimeError, match="1 parameters unknown"):
        covered({"head": sharded(torch.ones(2, 3)), "embedding": weight}, {"embedding": (2, 3)})


def test_a_sharded_weight_is_rounded_before_it_is_gathered(sharded, monkeypatch):
    weight = sharded(torch.randn(4, 8))
    kind, gathered = type(weight), []
    gather, move = kind.full_tensor, kind.to
    monkeypatch.setattr(kind, "full_tensor", lambda w: gathered.append(w.dtype) or gather(w))
    monkeypatch.setattr(kind, "to", lambda w, *where: gathered.append(where) or move(w, *where))
    ((bucket),) = buckets([("w", weight)], 1000, torch.device("cpu"), torch.bfloat16)
    assert gathered == [("cpu", torch.bfloat16), torch.bfloat16]  # where its mesh is, and rounded
    assert torch.equal(bucket.data.view(torch.bfloat16).view(4, 8), gather(weight).bfloat16())


@pytest.mark.parametrize(("ranks", "needed"), [(1, False), (2, True), (3, True)])
def test_weights_over_more_than_one_process_need_peers(ranks, needed):
    mesh = SimpleNamespace(size=lambda: ranks)
    parameters = [torch.ones(1), SimpleNamespace(device_mesh=mesh)]
    assert needs_peers(SimpleNamespace(parameters=lambda: parameters)) is needed
    assert not needs_peers(torch.nn.Linear(2, 2))


def test_a_host_copy_holds_the_buckets(model, shapes):
    named = covered(checkpoint_weights(model), shapes)
    made = list(buckets(named, 200_000, torch.device("cpu")))
    kept = in_host_memory(made)
    assert [one.pieces for one in kept] == [one.pieces for one in made]
    for mine, theirs in zip(kept, made, strict=True):
        assert torch.equal(mine.on(torch.device("cpu")).data, theirs.data)


class OnCard(torch.Tensor):
    """Bytes that say they are on a card."""

    is_cuda = True


def test_what_comes_from_a_card_is_kept_in_pinned_memory_that_is_used_again(monkeypatch):
    empty, asked = torch.empty_like, []

    def pinned(like, **options):  # torch without a card pins nothing
        asked.append((type(like), options["device"], options.pop("pin_memory")))
        return empty(torch.Tensor(like), **options)

    monkeypatch.setattr(torch, "empty_like", pinned)

    def made(*values, size=4):
        pieces = [Piece(name="w", shape=(size,), dtype="uint8", start=0, end=size)]
        return [
            Bucket(
                pieces=tuple(pieces),
                data=torch.full((size,), value, dtype=torch.uint8).as_subclass(OnCard),
            )
            for value in values
        ]

    first = in_host_memory(made(1, 2))
    assert asked == [(OnCard, "cpu", True)] * 2
    places = [one.data.data_ptr() for one in first]
    again = in_host_memory(made(3, 4, 5), first)
    assert len(asked) == 3 and [one.data.data_ptr() for one in again][:2] == places
    assert [one.data.tolist() for one in again] == [[3] * 4, [4] * 4, [5] * 4]
    other = in_host_memory(made(6, size=5), again)
    assert len(asked) == 4 and other[0].data.tolist() == [6] * 5


def test_a_bucket_goes_to_another_device():
    ((bucket),) = buckets([("a", torch.ones(5))], 1000, torch.device("cpu"))
    moved = bucket.on(torch.device("meta"))
    assert moved.data.device.type == "meta" and moved.pieces == bucket.pieces


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
