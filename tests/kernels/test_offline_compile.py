"""Every kernel, in the configurations of offline.py, compiles to a good binary for absent cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def rows():
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "offline.py")]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-3000:]
    return json.loads(out.stdout)


def test_no_spills_and_shared_memory_within_the_limit(rows):
    # A block's shared memory at most, in bytes, as CUDA documents it.
    limits = {80: 166_912, 90: 232_448, 100: 232_448}
    assert {row["sm"] for row in rows} == set(limits)
    for row in rows:
        assert row["stack"] == row["local"] == 0, row
        assert row["shared"] <= limits[row["sm"]], row


def test_rows_are_read_and_written_16_bytes_at_a_time(rows):
    # A vocabulary that is no multiple of 8 has rows with padding, so it is read so too.
    names = ("policy loss", "live states")
    real = [row for row in rows if row["V"] > 100_000 or row["kernel"] in names]
    assert real
    for row in real:
        assert row["wide"] > 0, row


def bench_rows(rows):
    """The row kernel of a plain loss in bfloat16, for an even and an odd vocabulary."""
    found = [
        row
        for row in rows
        if (row["kernel"], row["dtype"], row["sm"]) == ("linear loss", "bf16", 90)
        and row["V"] > 100_000
        and not {"ENTROPY", "CAP", "HAS_REF"} & set(row["options"])
    ]
    assert {row["V"] for row in found} == {151_936, 151_669}
    return found


def test_the_row_kernel_takes_at_most_18_instructions_per_logit_and_nothing_waits_in_a_loop(rows):
    for row in bench_rows(rows):
        per_logit = 0.0
        for loop in row["loops"]:
            assert not loop["waits"], loop
            wide = [one for one in loop["loads"] if ".128" in one]
            assert wide == loop["loads"], loop  # eight bfloat16 logits each
            per_logit += loop["instructions"] / (8 * len(wide))
        assert len(row["loops"]) == 2 and per_logit <= 18, (row, per_logit)


def test_three_quarters_of_the_warps_fit_an_sm(rows):
    """65,536 registers and 64 warps per multiprocessor; registers go out 8 per thread."""
    for row in bench_rows(rows):
        per_warp = 32 * -(-row["registers"] // 8) * 8
        blocks = 65_536 // (per_warp * row["warps"])
        assert blocks * row["warps"] >= 48, row


def test_entropys_gradient_is_compiled_only_where_it_is_asked_for(rows):
    sums = {}
    for row in rows:
        if (row["kernel"], row["dtype"], row["V"], row["sm"]) == (
            "linear loss",
            "bf16",
            151_936,
            90,
        ):
            options = row["options"]
            if "CAP" not in options and "GRADIENT" in options:
                count = sum(loop["instructions"] for loop in row["loops"])
                sums.setdefault("ENTROPY" in options, []).append(count)
    assert max(sums[False]) < min(sums[True])
