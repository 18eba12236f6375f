"""One real run whose loss, KL estimate, engine, reward and attack style are from outside."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import commands
import pytest

from sectow_fast.game.rewards import REWARD_TERMS
from sectow_fast.plugins import load_plugins
from sectow_fast.types import UserError

ROOT = Path(__file__).parents[2]
PLUGINS = ("policy_loss", "kl_estimate", "engine", "reward_term", "attack_style")
TINY = [
    *("--rounds", "1", "--threads", "1"),
    *("--coldstart.caption_steps", "2", "--coldstart.defender_steps", "2"),
    *("--coldstart.attacker_steps", "2", "--coldstart.batch", "8"),
    *("--attack.steps", "2", "--attack.prompts", "2", "--attack.group_size", "4"),
    *("--defend.steps", "2", "--defend.prompts", "2", "--defend.group_size", "4"),
    *("--harvest.attacks", "4", "--harvest.replies", "1"),
    *("--evaluate.attacker_cases", "4", "--sandbox.suite_size", "4"),
    *("--sandbox.picture_variants", "2", "--evaluate.leak_attacks", "2"),
]
NAMED = [
    *("--engine.kind", "generate"),
    *("--attack.loss.ratio", "soft_clip", "--attack.loss.softness", "0.5"),
    *("--attack.terms.brevity", "0.5"),
    *("--defend.loss.kl", "huber", "--defend.loss.kl_coef", "0.1"),
    *("--defend.terms.brevity", "-0.25"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    for name in PLUGINS:
        (folder / f"{name}.py").write_bytes(
            (Path(__file__).parent / "examples" / f"{name}.py").read_bytes()
        )
    plugins = ",".join(f"{name}.py" for name in PLUGINS)
    words = ["--plain", "--plugins", plugins, *NAMED, *TINY, "--out", "run"]
    code, _, err = commands.run("sectow_fast.train", *words, cwd=folder)
    assert code == 0, err
    return folder / "run"


def steps(run: Path, phase: str) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row.get("phase") == phase and "step" in row]


def test_its_settings_are_kept_as_any_other(run):
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["engine"]["kind"] == "generate" and len(config["plugins"]) == 5
    assert config["attack"]["loss"]["ratio"] == "soft_clip"
    assert config["attack"]["loss"]["softness"] == 0.5
    assert config["defend"]["loss"]["kl"] == "huber"
    assert config["defend"]["terms"] == {"brevity": -0.25}


def test_the_reward_term_is_logged_and_counts(run):
    for phase, weight in (("attack", 0.5), ("defend", -0.25)):
        rewards = [row["reward"] for row in steps(run, phase)]
        assert all(0 < reward["brevity"] <= 1 for reward in rewards)
        if phase == "attack":
            usual = [r["success"] - 0.4 * r["similarity"] for r in rewards]
            totals = [u + weight * r["brevity"] for u, r in zip(usual, rewards, strict=True)]
            assert [r["total"] for r in rewards] == pytest.approx(totals, abs=1e-6)


def test_the_update_is_made_by_the_loss_and_the_estimate_from_outside(run):
    attack, defend = steps(run, "attack"), steps(run, "defend")
    assert any(row["grad_norm"] > 0 for row in attack)  # brevity tells completions apart
    assert all(row["skipped"] == 0 for row in attack + defend)
    assert all(row["mismatch_kl"] < 1e-6 for row in attack + defend if row["dead_groups"] < 1)
    assert any(row["kl"] != 0 for row in defend[1:])  # after a step it is not its reference


def test_the_page_is_written_and_players_are_kept(run):
    assert (run / "report.html").is_file() and (run / "defender" / "config.json").is_file()


MISSPELT = {
    "--attack.loss.ratio soft_clop": "attack.loss.ratio: found 'soft_clop'",
    "--attack.loss.softness 0.5": "softness",
    "--attack.loss.softnes 1": "did you mean --attack.loss.softness?",
    "--attack.terms.brevty 1": "attack.terms: found 'brevty'",
    "--engine.kind generated": "engine.kind: found 'generated'",
}


@pytest.mark.parametrize(("words", "message"), MISSPELT.items())
def test_a_misspelt_name_is_one_line_and_writes_nothing(run, tmp_path, words, message):
    plugins = ",".join(str(run.parent / f"{name}.py") for name in PLUGINS)
    given = ["--plugins", plugins, *words.split(), "--out", "new"]
    code, _, err = commands.run("sectow_fast.train", *given, cwd=tmp_path)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_term_that_is_registered_twice_is_refused(outside):
    with REWARD_TERMS.temporarily():
        load_plugins([str(outside("reward_term"))])
        with pytest.raises(UserError, match="reward term 'brevity': found the name taken"):
            REWARD_TERMS.register("brevity", len)
