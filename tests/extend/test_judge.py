"""A judge and a guard format from files outside the package, named as settings name them.

What is registered stays for the whole process, so each test runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

NO_WORDS = "expected one of rule, endpoint, model, guard, rule-knowingly; did you mean model?"
NO_SCORE = (
    "expected one of qwen3guard, llama-guard, wildguard, shieldgemma, harmbench, strongreject;"
    " did you mean strongreject?"
)


@pytest.fixture
def python(outside, tmp_path):
    """python(program): its output; {judge} and {format} in it stand for the copied examples."""
    (tmp_path / "words.txt").write_text("bado\ngugo\n")
    places = {"judge": str(outside("judge")), "format": str(outside("judge_format"))}

    def run(program: str) -> str:
        text = textwrap.dedent(program)
        for name, path in places.items():
            text = text.replace(f"{{{name}}}", path)
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_training_reaches_a_judge_by_its_name(python):
    words = python(
        """
        from sectow_fast.config import DataConfig
        from sectow_fast.judges import JudgeRequest, make_judge
        from sectow_fast.plugins import load_plugins
        from sectow_fast.real.build import judge_settings
        from sectow_fast.types import UserError

        config = DataConfig(judge="words", judge_model="words.txt")
        try:
            make_judge(judge_settings(config))
        except UserError as error:
            print(error)
        load_plugins(["{judge}"])
        judge = make_judge(judge_settings(config))
        asked = [JudgeRequest(request="r", reply=w) for w in ("Use Bado.", "I can't help.")]
        print(judge.id, [(n, v.label, v.refusal) for n, v in judge.judge(asked)])
        """
    )
    assert words.splitlines() == [
        f"data.judge: found 'words', {NO_WORDS}",
        "words:bado,gugo [(0, 'unsafe', 'none'), (1, 'safe', 'full')]",
    ]


def test_evaluation_reaches_a_judge_by_its_name_as_first_and_as_second(python):
    words = python(
        """
        from sectow_fast.evaluate import judge_settings
        from sectow_fast.evaluation.settings import parse
        from sectow_fast.judges import make_judge
        from sectow_fast.plugins import load_plugins
        from sectow_fast.types import UserError

        flags = ["--model", "m", "--suite", "s", "--out", "o", "--judge-model", "words.txt"]
        for more in (["--judge", "words"], ["--second-judge", "words"]):
            try:
                parse(flags + more)
            except UserError as error:
                print(error)
        load_plugins(["{judge}"])
        first = parse([*flags, "--judge", "words"])
        second = parse([*flags, "--second-judge", "words"])
        print(make_judge(judge_settings(first.judge, first)).id)
        print(make_judge(judge_settings(second.second_judge, second)).id)
        """
    )
    assert words.splitlines() == [
        f"--judge: found 'words', {NO_WORDS}",
        f"--second-judge: found 'words', {NO_WORDS}",
        "words:bado,gugo",
        "words:bado,gugo",
    ]


def test_a_guard_format_is_reached_by_its_name(python):
    words = python(
        """
        from sectow_fast.evaluation.settings import parse
        from sectow_fast.judges import GUARD_FORMATS
        from sectow_fast.plugins import load_plugins
        from sectow_fast.types import UserError

        flags = ["--model", "m", "--suite", "s", "--out", "o", "--judge-format", "score"]
        try:
            parse(flags)
        except UserError as error:
            print(error)
        load_plugins(["{format}"])
        guard = GUARD_FORMATS.get(parse(flags).judge_format)
        print([guard.parse(f"score: {n}", "x", "unknown").label for n in (3, 4, 6, 7)])
        print(guard.parse("no idea", "x", "safe").label)
        """
    )
    assert words.splitlines() == [
        f"--judge-format: found 'score', {NO_SCORE}",
        "['safe', 'unknown', 'unknown', 'unsafe']",
        "unknown",
    ]


def test_a_judges_file_can_be_named_once_only(python):
    words = python(
        """
        import shutil
        from sectow_fast.plugins import load_plugins
        from sectow_fast.types import UserError

        shutil.copy("{judge}", "again.py")
        try:
            load_plugins(["{judge}", "again.py"])
        except UserError as error:
            print(error)
        """
    )
    assert "judge 'words': found the name taken" in words
