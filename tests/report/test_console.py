"""The console says what happens, on lines or in a panel, and lets no control character through."""

from __future__ import annotations

import io
import random

import pytest
from rich.console import Console
from synthetic import EVENT, round_record, step_record

from sectow_fast.report.console import LiveConsole, Progress
from sectow_fast.types import Event

RNG = random.Random(0)
ROUNDS = [round_record(k, RNG, level=1.0, orr=0.01) for k in range(3)]
STEPS = [step_record(1, "defend", step, 4, RNG) for step in range(4)]
STEERING = Event(kind="k\x1b[2J", message="a\x1b[31m\rb", round=1, phase="attack", step=0)


def play(console: LiveConsole) -> None:
    with console:
        console.note("a note\x1b[2J")
        console.phase(0, "evaluate", 1)
        console.round_done(ROUNDS[0])
        console.phase(1, "defend", 4)
        for step in STEPS:
            console.step(step)
        console.event(EVENT)
        console.event(STEERING)
        console.round_done(ROUNDS[1])


def test_plain_lines_tell_phases_events_notes_and_rounds(capsys):
    play(LiveConsole(title="t", rounds=2, plain=True))
    lines = [line.split("] ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "t: 2 rounds"
    assert "measures of the round started" in lines
    assert "round 1/2 defender GRPO started, 4 steps" in lines
    assert "over-refusal: round 1 defender GRPO step 39: " + EVENT.message in lines
    done = next(line for line in lines if "defender GRPO done in 0:00, 4 steps" in line)
    assert done.endswith("reward 0.600 -> 0.862")
    asr = 100 * ROUNDS[1].mean("asr").value
    last = lines[-1]
    assert last.startswith(f"round 1/2: ASR {asr:.1f} % (figstep ")
    assert last.endswith("kept 500, queries 19,112")
    assert "chance of harm 11.00 % (worst on an object " in last
    assert ", attacker succeeds 48.0 %," in last  # on the defender of its round
    assert "kept" not in next(line for line in lines if line.startswith("round 0/2: ASR"))


def test_what_only_the_rule_judged_is_not_called_an_asr(capsys):
    play(LiveConsole(title="t", rounds=2, plain=True, attacks="not refused"))
    out = capsys.readouterr().out
    assert f"round 1/2: not refused {100 * ROUNDS[1].mean('asr').value:.1f} %" in out
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, color_system=None)
    play(LiveConsole(title="t", rounds=2, attacks="not refused", console=console))
    assert "mean not refused" in file.getvalue() and "ASR" not in out + file.getvalue()


def test_a_phase_that_is_cut_short_is_said_to_have_stopped(capsys):
    with pytest.raises(KeyboardInterrupt), LiveConsole(title="t", rounds=1, plain=True) as console:
        console.phase(1, "attack", 9)
        raise KeyboardInterrupt
    assert "round 1/1 attacker GRPO stopped in 0:00" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 200])
def test_the_panel_shows_the_rounds_so_far(width):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    play(LiveConsole(title="t", rounds=2, console=console))
    out = file.getvalue()
    assert f"{100 * ROUNDS[1].mean('asr').value:.1f} %" in out and "500" in out
    assert ("jailbreakv-like" in out) == (width == 200)
    assert "trained attacker 3.1x self-instruct" in out and EVENT.kind in out
    assert "48.0 %" in out and "11.0 %" in out  # the attacker's success, and the chance of harm


@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_are_shown_as_dots(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, color_system=None)
    play(LiveConsole(title="t", rounds=2, console=console))
    out = file.getvalue()
    assert "\x1b[2J" not in out and "\x1b[31m" not in out and "a·[31m·b" in out


def test_progress_counts_the_steps_that_are_done_and_the_time_that_is_left():
    phase = Progress(where="w", steps=4, began=0.0, last_step=0.0, last_line=0.0)
    for at, step in enumerate(STEPS[:2]):
        phase.advance(step, 30.0 * (at + 1))
    assert phase.done == 2
    assert phase.line().startswith("step 2/4  reward 0.688  loss ")
    assert "k tok/s" in phase.line() and phase.line().endswith("ETA 1:00")
