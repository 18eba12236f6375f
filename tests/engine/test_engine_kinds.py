"""Engines by name, and what is asked of a kind before a run is made."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sectow_fast.config import Config
from sectow_fast.engine.kinds import EngineKind, EnginePerModel, EngineSetup
from sectow_fast.engine.registry import ENGINES, engine_kind, register_engine
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.types import UserError

QWEN = {"defender": "Qwen2.5-VL-3B-Instruct"}
GPU = {"kind": "sglang", "device": "cuda"}


def setup(stage, tmp_path: Path, config: Config) -> EngineSetup:
    return EngineSetup(
        config=config,
        codec=stage.codec,
        folder=tmp_path,
        write_folder=lambda folder: stage.save(stage.defender(), folder),
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
        engine_kind(config).check(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())
    with pytest.raises(UserError, match=r"engine\.deterministic: found true on a CPU"):
        engine_kind(config).check(config)


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
