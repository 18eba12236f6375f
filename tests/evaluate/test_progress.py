"""How far an evaluation of models is: a bar on a terminal, plain lines in a file."""

from __future__ import annotations

import io
import sys

import pytest

from sectow_fast.data.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_plain_lines(capsys):
    with progress("q: replies", 3) as step:
        for _ in range(3):
            step()
    assert capsys.readouterr().err == "q: replies 3 of 3\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress("q: replies", 3) as step:
        for _ in range(3):
            step()
    assert "q: replies" in screen.getvalue() and "3/3" in screen.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_nothing_to_do_writes_nothing(monkeypatch, stream):
    screen = stream()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress("q: replies", 0):
        pass
    assert screen.getvalue() == ""


def test_a_failure_does_not_claim_to_be_done(capsys):
    with pytest.raises(ValueError), progress("q: replies", 3) as step:
        step()
        raise ValueError
    assert "of 3" not in capsys.readouterr().err
