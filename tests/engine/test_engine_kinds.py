"""Engines by name, and what is asked of a kind before a run is made."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path

import pytest
from tiny_process import TinyProcess
from transformers import AutoConfig

from sectow_fast.config import Config
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine import sglang_kind
from sectow_fast.engine.kinds import EngineKind, EnginePerModel, EngineSetup
from sectow_fast.engine.registry import ENGINES, engine_kind, register_engine
from sectow_fast.engine.sglang_settings import (
    cache_token_bytes,
    engine_arguments,
    first_card,
    kv_tokens_for,
)
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.players import Players
from sectow_fast.types import UserError

QWEN = {"defender": "Qwen2.5-VL-3B-Instruct"}
GPU = {"kind": "sglang", "device": "cuda"}
WIDTH = {"hidden_size": 2048, "num_attention_heads": 16}


def setup(stage, tmp_path: Path, config: Config) -> EngineSetup:
    return EngineSetup(
        config=config,
        codec=stage.codec,
        folder=tmp_path,
        write_folder=stage.describe,
    )


def test_the_engines_that_come_with_it():
    assert ENGINES.names()[:2] == ["torch", "sglang"]
    assert engine_kind(Config()).shares_weights
    assert not engine_kind(Config(engine={"kind": "sglang"})).shares_weights


def test_an_unknown_engine_names_the_nearest_one():
    words = "engine.kind: found 'sglan', expected one of torch, sglang.*did you mean sglang"
    with pytest.raises(UserError, match=words):
        engine_kind(Config(engine={"kind": "sglan"}))


@pytest.mark.parametrize("engine", [TorchEngine, EngineKind(make=lambda setup: None)])
def test_a_taken_name_is_refused(engine):
    with pytest.raises(UserError, match="engine 'torch': found the name taken"):
        register_engine("torch", engine)
    assert engine_kind(Config()).make is not None


def test_engines_of_this_process_have_nothing_to_start(stage, tmp_path):
    engines = engine_kind(Config()).make(setup(stage, tmp_path, Config()))
    engines.start()
    assert not list(tmp_path.iterdir())


def test_an_engine_starts_from_a_folder_without_weights(stage, tmp_path):
    config = Config(engine={"kind": "sglang", "device": "cpu", "dtype": "bfloat16"})
    engines = engine_kind(config).make(setup(stage, tmp_path, config))
    engine = engines.of("defender", stage.defender())
    folder = tmp_path / "model"
    assert folder == Path(engine.server.arguments["model_path"])
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "processor_config.json"} <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000
    assert not [name for name in names if name.endswith((".safetensors", ".bin"))]
    written = json.loads((folder / "config.json").read_text())
    assert written["dtype"] == "bfloat16"
    assert written["architectures"] == ["LlavaForConditionalGeneration"]
    assert len(engine.shapes) == len(dict(engine.model.named_parameters()))


def test_the_folder_of_a_run_that_goes_on_is_written_anew(stage, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("old")
    config = Config(engine={"kind": "sglang", "device": "cpu"})
    engine_kind(config).make(setup(stage, tmp_path, config)).of("defender", stage.defender())
    assert not (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("engine", "world", "here", "words"),
    [
        ({"gpus": 2}, 1, 1, r"engine\.gpus: found 2 and a run of 1 ranks"),
        ({}, 8, 8, r"engine\.gpus: found 1 and a run of 8 ranks"),
        ({"tp": 9}, 1, 1, r"engine\.tp: found 8 visible GPUs for 1 ranks .* expected 9"),
        ({"tp": 2, "gpus": 8}, 8, 8, r"engine\.tp: found 8 visible GPUs for 8 .* expected 16"),
        ({"tp": 2, "gpus": 4}, 4, 4, None),
        ({"tp": 2, "gpus": 8}, 8, 4, None),  # two machines of eight
        ({"gpus": 8}, 8, 8, None),
        ({"device": "cpu", "gpus": 8}, 1, 1, None),
        ({"gpus": 3}, 3, 9, r"engine\.tp: found 8 visible GPUs for 9 ranks"),
        ({"device": "cpu", "tp": 2}, 1, 1, r"engine\.tp: found 2 on a CPU, expected 1"),
    ],
)
def test_ranks_and_cards_are_compared_before_anything_is_made(
    monkeypatch, engine, world, here, words
):
    import torch

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    config = Config(engine=GPU | engine)
    if words is None:
        engine_kind(config).check(config, world)
        return
    with pytest.raises(UserError, match=words) as found:
        engine_kind(config).check(config, world)
    assert "\n" not in str(found.value)


def test_no_visible_card_is_said_as_such(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())
    config = Config(engine=GPU)
    with pytest.raises(UserError, match=r"engine\.device cuda: found no GPU that torch sees"):
        engine_kind(config).check(config, 1)


def test_engines_of_several_cards_stand_side_by_side(monkeypatch):
    taken = []
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        first = first_card(Config(engine=GPU | {"tp": 2}).engine)
        taken += range(first, first + 2)
    assert taken == list(range(8))


@pytest.mark.parametrize(
    ("settings", "bytes_free", "tokens"),
    [
        ({"max_running": 8}, 10**9, 8 * 100),  # what can ever be used
        ({"max_running": 8}, 5550, 555),  # what there is room for
        ({"max_running": 8, "kv_tokens": 300}, 5550, 300),
        ({"max_running": 8}, 990, r"context_length: found room for 99 cache .* expected 100"),
        ({"kv_tokens": 300}, 2990, r"kv_tokens: found room for 299 cache .* expected 300"),
    ],
)
def test_the_cache_is_a_number_of_tokens(settings, bytes_free, tokens):
    engine = Config(engine=GPU | settings).engine

    def found() -> int:
        return kv_tokens_for(engine, context=100, bytes_free=bytes_free, cache_bytes_per_token=10)

    if isinstance(tokens, int):
        assert found() == tokens
        return
    with pytest.raises(UserError, match=tokens):
        found()


def test_bytes_of_a_cached_token():
    model = {"num_hidden_layers": 36, "num_key_value_heads": 2} | WIDTH
    engine = Config(engine=GPU | {"dtype": "bfloat16"}).engine
    assert cache_token_bytes(model, engine) == 2 * 2 * 36 * 2 * 128
    assert cache_token_bytes(model, engine.model_copy(update={"dtype": "float32"})) == 73_728
    # Two heads over four GPUs: each has one.
    assert cache_token_bytes(model, engine.model_copy(update={"tp": 4})) == 2 * 2 * 36 * 128


def test_an_engine_on_a_gpu_is_given_tokens_and_no_share(stage, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    stage.describe(tmp_path / "model")
    # The sandbox's model may have a quarter of the GPU for the caches of both engines.
    most = {"max_running": 64, "context_length": 128, "tp": 2}
    config = Config(engine=GPU | most | {"gpu_gib": 4})
    given = engine_arguments(config, tmp_path / "model")
    assert given["max_total_tokens"] == 64 * 128 and given["base_gpu_id"] == 6
    assert "mem_fraction_static" not in given
    text = AutoConfig.from_pretrained(tmp_path / "model").get_text_config().to_dict()
    gib = 4 * 2 * 1000 * cache_token_bytes(text, config.engine) / 2**30
    less = engine_arguments(Config(engine=GPU | most | {"gpu_gib": gib}), tmp_path / "model")
    assert less["max_total_tokens"] == 1000  # half of it: there are two engines
    share = config.model_copy(update={"engine": config.engine.model_copy(update={"memory": 0.4})})
    assert engine_arguments(share, tmp_path / "model")["mem_fraction_static"] == 0.4


def test_the_cache_of_a_real_model_is_what_its_plan_says(tmp_path):
    config = Config(model=QWEN, engine=GPU | {"kv_tokens": 12_345, "gpu_gib": 0.001})
    stage_less = tmp_path / "nowhere"  # nothing is read for it
    assert engine_arguments(config, stage_less)["max_total_tokens"] == 12_345


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["defender", "attacker"]),
        ({"attacker": "self-instruct"}, ["defender"]),
        ({"engine": {"roles": "swap"}}, ["both"]),
    ],
)
def test_servers_are_started_one_by_one_and_sleep(stage, tmp_path, monkeypatch, settings, names):
    engine = {"kind": "sglang", "device": "cpu"} | settings.pop("engine", {})
    config = Config(engine=engine, **settings)
    made = functools.partial(sglang_kind.SGLangServer, process=TinyProcess)
    monkeypatch.setattr(sglang_kind, "SGLangServer", made)
    engines = engine_kind(config).make(setup(stage, tmp_path, config))
    engines.start()
    assert list(engines._servers) == names
    for server in engines._servers.values():
        assert server.starts == 1 and server.asleep
        assert server.process.calls == ["flush", "release"]


def test_players_start_engines_before_a_model_is_loaded_and_close_them_on_an_error(stage, tmp_path):
    seen = []

    class Logged(EnginePerModel):
        def start(self) -> None:
            seen.append("start")

        def close(self) -> None:
            seen.append("close")

    class Broken(SandboxStage):
        def defender(self):
            seen.append("model")
            raise UserError("no such model")

    kind = EngineKind(make=lambda setup: Logged(TorchEngine, setup))
    with ENGINES.temporarily():
        register_engine("logged", kind)
        config = Config(engine={"kind": "logged"}, sandbox=stage.config.sandbox)
        with pytest.raises(UserError, match="no such model"):
            Players(config, Broken(config), folder=tmp_path)
    assert seen == ["start", "model", "close"]


def test_a_plain_class_makes_one_engine_per_model(stage, tmp_path):
    engines = engine_kind(Config()).make(setup(stage, tmp_path, Config()))
    models = {name: stage.defender() for name in ("attacker", "defender")}
    made = {name: engines.of(name, one) for name, one in models.items()}
    assert {name: engine.model for name, engine in made.items()} == models
    assert all(isinstance(engine, TorchEngine) for engine in made.values())
    assert engines.counts == {} and engines.versions == {}


def test_all_engines_of_a_plain_class_are_closed(stage, tmp_path, model):
    closed = []

    class Closing(TorchEngine):
        def close(self) -> None:
            closed.append(self)

    engines = EnginePerModel(Closing, setup(stage, tmp_path, Config()))
    made = [engines.of(name, model) for name in ("attacker", "defender")]
    engines.close()
    assert closed == made


def test_sglang_is_refused_where_it_is_missing_or_cannot_be_deterministic(monkeypatch):
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None):
        return None if name == "sglang" else found(name, package)

    config = Config(engine={"kind": "sglang", "device": "cpu", "deterministic": True})
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UserError, match=r"engine\.kind sglang: found no SGLang"):
        engine_kind(config).check(config, 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())
    with pytest.raises(UserError, match=r"engine\.deterministic: found true on a CPU"):
        engine_kind(config).check(config, 1)


def test_only_engines_that_share_a_gpu_need_a_plan():
    sglang = engine_kind(Config(engine=GPU))
    assert sglang.needs_plan(Config(engine=GPU, model=QWEN))
    assert not sglang.needs_plan(Config(engine=GPU | {"device": "cpu"}, model=QWEN))
    assert not engine_kind(Config()).needs_plan(Config(model=QWEN))


def test_a_dry_run_says_what_sglang_keeps_on_a_cpu():
    config = Config(engine={"kind": "sglang", "device": "cpu", "kv_tokens": 4096})
    remark = engine_kind(config).remark(config, 3 * 2**20)
    assert "two engines; each holds 3 MiB of weights and 4,096 tokens of cache" in remark
    assert engine_kind(Config()).remark(Config(), 1) == ""
