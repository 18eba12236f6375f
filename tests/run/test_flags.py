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
from sectow_fast.config import Config
from sectow_fast.run_folder import config_toml
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attack", "{}"], r"--attack: found the name of a section, .*did you mean --attack\."),
        (["--lr", "1"], "did you mean --coldstart.lr or --attack.lr or --defend.lr\\?"),
        (["-seed", "1"], "-seed: found an unknown setting, .* did you mean --seed\\?"),
        (["--preset", "../presets/real"], "--preset ../presets/real: found no such preset"),
        (["--preset", "rael"], "did you mean real\\?"),
        (["--preset", ""], "--preset: found nothing after it"),
        (["--out", ""], "--out: found nothing after it"),
        (["--preset", "real", "--config", "x.toml"], "found beside --config x.toml"),
        (["--accept-changes"], "--accept-changes: found without --resume"),
        (["--plugins", ""], "plugins '': cannot be imported"),
        (["--seed", "9" * 20], "^seed: found 9{20}, expected a number below 2..63"),
        (["--rounds", "9" * 20], "^rounds: found '9{20}', input should be less than or equal"),
        (["--harvest.min_success", "9"], "^harvest: min_success 9 is over replies 4$"),
        (["--engine.memory", "None"], "^engine.memory: .*; null means none$"),
        (["--attack.terms.a", "1", "--attack.terms.a.b", "1"], "for a as well"),
        (["--attack.lr", "-1e-3"], "^attack.lr: found '-1e-3', input should be greater than 0"),
    ],
)
def test_an_odd_value_is_one_line_and_blames_no_preset(words, message):
    with pytest.raises(UserError, match=message) as caught:
        read_command(words)
    assert "\n" not in str(caught.value) and "sandbox.toml" not in str(caught.value)


@pytest.mark.parametrize("path", ["/a [b]/c", '/a"b', "/a{b", "[/a", "-x", "/a'b"])
def test_odd_letters_in_a_path_stay(path):
    _, config = read_command(["--model.defender", path, "--data.unsafe", f"figstep={path}"])
    assert config.model.defender == path and config.data.unsafe == (f"figstep={path}",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"seed = " + b"9" * 400, r"seed: found 9{24}, expected a number below 2..63"),
        (b"a = " + b"[" * 3000 + b"]" * 3000, "found lists in lists without end"),
        (b"preset = '\xe9'", "found no UTF-8 text"),
        (b"ablate = 'no-iteration'", "ablate: found 'no-iteration', expected a list"),
        (b"ablate = 3", "ablate: found 3, expected a list"),
        (b"ablate = [[1]]", r"ablate: found \[1\], input should"),
        (b"attack = 3", r"attack: found 3, expected a section of settings \(\[attack\]"),
        (b"coldstart = 3\nablate = ['no-cold-start']", "coldstart: found 3, expected a section"),
        (b"[atack]\nsteps = 3", r"atack: found an unknown setting, .* did you mean attack\?"),
        (b"[harvest]\nreplies = 2\nmin_success = 3", "harvest: min_success 3 is over replies 2"),
    ],
)
def test_an_odd_file_is_one_line_that_names_it(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=rf"mine\.toml: {message}") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_other_line_ends_are_no_mistake(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 3\r\nrounds = 1\r\n")
    config = load_config(path)
    assert (config.seed, config.rounds) == (3, 1)


def test_what_was_unset_is_unset_after_it_was_kept(tmp_path):
    """TOML has no null, and with SGLang an absent tis_cap is set."""
    values = {"engine": {"kind": "sglang"}, "attack": {"loss": {"tis_cap": None}}}
    config = Config.model_validate(values)
    assert config.attack.loss.tis_cap is None and config.defend.loss.tis_cap == 2.0
    (tmp_path / "config.toml").write_text(config_toml(config))
    assert load_config(tmp_path / "config.toml", []) == config
    assert "null" not in config_toml(Config())
