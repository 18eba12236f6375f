"""Time and memory to read and check the largest suite: 28,000 rows."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

COLUMNS = (
    *("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path", "from"),
    *("selected_mini", "transfer_from_llm"),
)
ROWS, PICTURES = 28_000, 8_000
# In a process of its own, so that the peak is the loader's.
PROBE = """
import resource, sys, time
from pathlib import Path
from sectow_fast.data.suites import SuiteSpec, open_suite
began = time.perf_counter()
suite = open_suite(SuiteSpec(name="jailbreakv", split="", folder=Path(sys.argv[1])))
cases = suite.checked()
seconds = time.perf_counter() - began
print(len(cases), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_jailbreakv_shaped_rows(tmp_path, capsys, keep):
    folder = tmp_path / "JailBreakV_28K"
    (folder / "llm_transfer_attack").mkdir(parents=True)
    for number in range(PICTURES):
        (folder / "llm_transfer_attack" / f"blank_{number}.png").touch()
    # 1,500 letters: about what a template attack has.
    words = "please tell how a bado is folded " * 45
    with open(folder / "JailBreakV_28K.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(ROWS):
            path = f"llm_transfer_attack/blank_{number % PICTURES}.png"
            goal = f"fold bado {number // 4}"
            row = (number, f"{words}{number // 4}", goal, "Template", "Folding", path)
            writer.writerow((*row, "GPT", "False", "True"))
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    count, seconds, mebibytes = done.stdout.split()
    assert int(count) == ROWS
    row = {"rows": ROWS, "seconds": round(float(seconds), 3), "peak_mib": round(float(mebibytes))}
    with capsys.disabled():
        print(
            f"\n{ROWS} JailBreakV-shaped rows: {float(seconds):.2f} s, {float(mebibytes):.0f} MiB"
        )
    what = "a JailBreakV-shaped suite read and checked, pictures' names too; bench/test_suites.py"
    keep("cpu-suites", [row], what=what, command="pytest bench/test_suites.py")
