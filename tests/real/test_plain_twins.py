"""Whole runs and evaluations are the plain twin's, bit for bit, however a folder says what ends a
reply and however a file holds its pictures; pictures of several in a request are among them."""

from __future__ import annotations

import json
from pathlib import Path

import plain_twins
import pytest
import torch

from sectow_fast import evaluate
from sectow_fast.data.codec import ChatCodec
from sectow_fast.data.images import StoresByName
from sectow_fast.data.processor import load_model, load_processor
from sectow_fast.data.special import ModelTokens
from sectow_fast.data.suites import SuiteSpec, open_suite
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.types import Sampling

NEW = 8  # tokens of a reply
VARIANTS = [*plain_twins.MODELS, "odd pictures"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("twins")


@pytest.fixture(scope="module")
def model(base) -> Path:
    return plain_twins.plain_model(base / "model")


@pytest.fixture(scope="module")
def suites(base) -> Path:
    return plain_twins.write_suites(base / "suites", plain_twins.save_plain)


@pytest.fixture(scope="module")
def odd_suites(base) -> Path:
    return plain_twins.write_suites(base / "odd", plain_twins.odd_picture)


@pytest.fixture(scope="module")
def plain(base, model, suites):
    return plain_twins.played(model, suites, base / "run")


def answers(defender: Path, suites: Path, out: Path) -> list[dict]:
    """What `python -m sectow_fast.evaluate` keeps of each request, less where pictures lie."""
    code = evaluate.main(
        [
            *("--model", f"q={defender}", "--out", str(out), "--max-new-tokens", str(NEW)),
            *("--suite", f"vlguard={suites / 'vlguard'},mmmu={suites / 'mmmu'}"),
        ]
    )
    assert code == 0
    lines = (out / "rows" / "q" / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def answered(base, plain, suites):
    return answers(base / "run" / "defender", suites, base / "answers")


def test_the_plain_run_trains_on_several_pictures(plain, suites, model):
    suite = open_suite(SuiteSpec(name="mmmu", split="dev", folder=suites / "mmmu"))
    assert {len(case.images) for case in suite.cases()} == {2, 3}
    steps = [row for row in plain["rows"] if "step" in row and row["round"] == 1]
    assert [row["phase"] for row in steps] == ["attack", "defend", "defend"]
    # The trainer's one forward of a group says what the engine said, picture by picture.
    assert all(row["mismatch_max"] < 1e-5 and row["dead_groups"] < 1 for row in steps)
    assert all(0 < row["cut_replies"] < 1 for row in steps)  # some replies end by themselves
    assert plain["attacks"]
    before = (model / "model.safetensors").read_bytes()
    assert all(weights != before for weights in plain["weights"].values())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_and_its_evaluation_are_the_plain_twins(
    base, model, suites, odd_suites, plain, answered, name
):
    own, change = model, plain_twins.MODELS.get(name)
    if change:
        own = plain_twins.copied(model, base / f"model {name}", change)
    given = suites if change else odd_suites
    run = plain_twins.played(own, given, base / name)
    for part, value in plain.items():
        assert run[part] == value, part
    assert answers(base / name / "defender", given, base / f"answers {name}") == answered


def test_evaluation_says_what_the_engine_of_training_says(base, suites, answered):
    """transformers' own `generate` beside our rollout, on all requests."""
    folder = base / "run" / "defender"
    said = {row["test_case_id"]: row["model_response"] for row in answered}
    model = load_model(folder, dtype="float32")
    for name in ("vlguard", "mmmu"):
        suite = open_suite(SuiteSpec(name=name, split="", folder=suites / name))
        images = StoresByName({"its": suite.images})
        codec = ChatCodec(load_processor(folder), images, tokens=ModelTokens.of(folder))
        cases = [case.as_case("its") for case in suite.cases()]
        with torch.no_grad():
            greedy = TorchEngine(model, codec).generate(
                codec.encode(cases),
                n=1,
                sampling=Sampling(temperature=0.0, max_new_tokens=NEW),
                seed="",
            )
        for case, (one,) in zip(cases, greedy, strict=True):
            assert codec.decode(one.ids) == said[case.id]
