"""The log survives a killed run: whole lines are kept, a torn one goes, and it is wound back."""

from __future__ import annotations

import numpy as np
import pytest

from sectow_fast.report.metrics import MetricsLog, read, scalars
from sectow_fast.types import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_a_torn_last_line_is_dropped_and_counted(path):
    path.write_text('{"a": 1}\n\n{"b": 2}\n{"c":')
    rows = read(path)
    assert list(rows) == [{"a": 1}, {"b": 2}] and rows.torn == 1


def test_a_broken_line_before_the_last_is_named(path):
    path.write_text('{"a": 1}\nnonsense\n{"b": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: expected one JSON object"):
        list(read(path))


def test_the_log_is_cut_back_to_a_checkpoint(path):
    log = MetricsLog(path, tensorboard=False)
    log.append({"loss": 1.0})
    kept = log.bytes
    log.append({"loss": 2.0})
    log.truncate(kept)
    log.append({"loss": float("nan"), "reward": {"total": float("inf")}})
    log.close()
    assert list(read(path)) == [{"loss": 1.0}, {"loss": None, "reward": {"total": None}}]


def test_a_log_shorter_than_its_checkpoint_is_refused(path):
    log = MetricsLog(path, tensorboard=False)
    with pytest.raises(UserError, match="asks for the first 9 bytes, found 0"):
        log.truncate(9)
    log.close()


@pytest.mark.parametrize(("tail", "rows"), [('{"b":', 2), ('{"b": 2}', 3)])
def test_a_log_that_is_opened_again_goes_on_after_the_last_whole_row(path, tail, rows):
    path.write_text('{"a": 1}\n' + tail)
    log = MetricsLog(path, tensorboard=False)
    log.append({"c": np.float32(0.5), "n": np.int64(3)})
    log.close()
    found = list(read(path))
    assert len(found) == rows and found[-1] == {"c": 0.5, "n": 3}


def test_nested_numbers_are_named_by_their_path():
    row = {"phase": "attack", "loss": 1.0, "lr": None, "reward": {"total": 2}}
    assert list(scalars(row)) == [("loss", 1.0), ("reward/total", 2.0)]


def test_a_row_is_one_line_for_every_reader_and_comes_back_as_it_was(path):
    row = {"text": "a\x85b\u2028c\u2029d\re\x0bf\x1cg \ud83d h \U0001f600", "n\ud800": 1}
    log = MetricsLog(path, tensorboard=False)
    for _ in range(2):
        log.append(row)
    log.close()
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    assert list(read(path)) == [row, row]
