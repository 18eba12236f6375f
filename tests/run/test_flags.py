"""Flags of a model with sections in sections, as both commands read them."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from sectow_fast.cli import (
    extra_flag,
    flags_of,
    help_lines,
    nested,
    read_all_flags,
    unknown_setting,
)
from sectow_fast.settings import PRESETS, config_flags, load_config, read_command
from sectow_fast.types import UserError


class Loss(BaseModel):
    clip_low: float = 0.2
    cap: float | None = None


class Phase(BaseModel):
    loss: Loss = Loss()
    terms: dict[str, float] = {}


class Toy(BaseModel):
    seed: int = 0
    names: tuple[str, ...] = ()
    fast_mode: bool = False
    attack: Phase = Phase()


FLAGS = [*flags_of(Toy()), extra_flag("attack.loss.slope", 2.0)]


def read(*words: str) -> dict:
    return nested(read_all_flags(words, FLAGS))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], {}),
        (["--seed", "3"], {"seed": "3"}),
        (["--seed=3"], {"seed": "3"}),
        (["--seed", "3", "--seed", "4"], {"seed": "4"}),
        (["--seed", "-1e-3"], {"seed": "-1e-3"}),
        (["--seed", ""], {"seed": ""}),
        (["--names", "a=b,c=d"], {"names": ["a=b", "c=d"]}),
        (["--names", "a=b", "--names", "c=d"], {"names": ["a=b", "c=d"]}),
        (["--names", '["a", "b,c"]'], {"names": ["a", "b,c"]}),
        (["--names", ""], {"names": [""]}),
        (["--names", "a\nb,c"], {"names": ["a\nb", "c"]}),
        (["--fast_mode"], {"fast_mode": "true"}),
        (["--fast_mode", "off"], {"fast_mode": "off"}),
        (["--fast_mode", "--seed", "1"], {"fast_mode": "true", "seed": "1"}),
        (["--attack.loss.clip_low", "0.1"], {"attack": {"loss": {"clip_low": "0.1"}}}),
        (["--attack.loss.cap", "null"], {"attack": {"loss": {"cap": None}}}),
        (["--attack.loss.slope", "3"], {"attack": {"loss": {"slope": "3"}}}),
        (["--attack.terms.brevity", "0.1"], {"attack": {"terms": {"brevity": "0.1"}}}),
        (["--attack.terms.brevity=0.1"], {"attack": {"terms": {"brevity": "0.1"}}}),
    ],
)
def test_a_flag_is_read(words, wanted):
    assert read(*words) == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed"], "--seed: found no value, expected one; see --help"),
        (["--seed", "--names"], "--seed: found no value, expected one; see --help"),
        (["--attack.loss.cap"], "--attack.loss.cap: found no value, expected one; see --help"),
        (["stray"], "'stray': found a bare word, expected --name VALUE; see --help"),
        (["-s"], "'-s': found a bare word, expected --name VALUE; see --help"),
        (["--seed", "3", "4"], "'4': found a bare word, expected --name VALUE; see --help"),
        (["--see", "3"], "--see: found an unknown setting, .* did you mean --seed\\?"),
        (["--fast-mode"], "did you mean --fast_mode\\?"),
        (["--attack.clip_low", "1"], "did you mean --attack.loss.clip_low\\?"),
        (["--attack.los.cap=1"], "--attack.los.cap: found .* did you mean --attack.loss.cap\\?"),
        (["--loss.slop", "1"], "did you mean --attack.loss.slope\\?"),
        (["--attack.terms", "1"], "did you mean --attack.terms.NAME\\?"),
        (["--zzz"], "--zzz: found an unknown setting, expected a known one; see --help for every"),
    ],
)
def test_a_mistake_names_the_flag_and_what_to_do(words, message):
    with pytest.raises(UserError, match=message):
        read(*words)


def test_a_letter_left_out_is_answered_by_the_setting_itself():
    known = [flag.name for flag in config_flags({})]
    for name in known:
        typo = name[: len(name) // 2] + name[len(name) // 2 + 1 :]
        assert f"did you mean {name}?" in unknown_setting(typo, known)


def test_help_is_one_line_per_setting_with_its_default():
    assert help_lines(FLAGS) == [
        "  --seed = 0",
        "  --names =",
        "  --fast_mode = False",
        "  --attack.loss.clip_low = 0.2",
        "  --attack.loss.cap =",
        "  --attack.terms.NAME =",
        "  --attack.loss.slope = 2.0",
    ]


# ---- a run's configuration


def test_flags_lie_over_the_file_section_by_section(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 5\n[attack]\nsteps = 7\nprompts = 3\n")
    options, config = read_command(
        ["--config", str(path), "--attack.steps", "9", "--dry-run", "--data.unsafe", "a=b,c=d"]
    )
    assert options.dry_run and options.out is None
    assert (config.seed, config.attack.steps, config.attack.prompts) == (5, 9, 3)
    assert config.data.unsafe == ("a=b", "c=d")


def test_a_mistake_names_the_file_only_where_the_file_made_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[attack]\nsteps = 'x'\n")
    with pytest.raises(UserError, match=r"^/.*mine.toml: attack.steps: found 'x', input should"):
        load_config(path)
    with pytest.raises(UserError, match=r"^attack.steps: found 'y', input should"):
        load_config(path, ["--attack.steps", "y"])


def test_null_takes_back_an_optional_number():
    path = PRESETS / "qwen2.5-vl-3b-1gpu.toml"
    config = load_config(path, ["--engine.memory", "0.5", "--engine.memory", "null"])
    assert config.engine.memory is None
    with pytest.raises(UserError, match=r"attack.steps: found 'null'"):
        load_config(path, ["--attack.steps", "null"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry-run=never"], "--dry-run: found 'never', input should be a valid boolean"),
        (["--reveal", "maybe"], "reveal: found 'maybe', input should be a valid boolean"),
        (["--resume", "x", "--seed", "1"], r"--resume x: found other settings .*\(--seed 1\)"),
        (["--resume", "x", "--out", "y"], r"--resume x: found other settings .*\(--out y\)"),
        (["--resume", ""], "found no config.toml"),
        (["--config", "."], r"--config \.: found a folder"),
    ],
)
def test_a_mistake_in_a_command_is_one_line(words, message):
    with pytest.raises(UserError, match=message) as caught:
        read_command(words)
    assert "\n" not in str(caught.value)
