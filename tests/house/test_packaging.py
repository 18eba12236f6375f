"""Checkout, editable install and wheel: one module identity each, and no heavy imports."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBE = """
import importlib, sys
import sectow_fast, sectow_fast.kernels
heavy = {"transformers", "sglang", "matplotlib", "rich", "torch"} & set(sys.modules)
assert not heavy, heavy
from sectow_fast.kernels import policy_loss, group_advantage
loss = importlib.import_module("sectow_fast.kernels.loss")
assert loss.policy_loss is policy_loss
copies = [n for n, m in sys.modules.items()
          if getattr(m, "__file__", None) == loss.__file__]
assert copies == ["sectow_fast.kernels.loss"], copies
assert "transformers" not in sys.modules
print(sectow_fast.__file__, loss.__file__)
"""


def probe(folder: Path, path: list[Path]) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_bare_checkout(tmp_path):
    assert str(ROOT / "kernels" / "loss.py") in probe(tmp_path, [ROOT])


def test_wheel_in_an_empty_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"sectow_fast"}
    for wanted in (
        "sectow_fast/kernels/__init__.py",
        "sectow_fast/kernels/loss.py",
        "sectow_fast/presets/sandbox.toml",
        "sectow_fast/report/report.html.j2",
    ):
        assert wanted in names
    assert any(name.startswith("sectow_fast/_C.") for name in names)
    out = probe(tmp_path, [tmp_path / "site"])
    assert str(ROOT) not in out and "site/sectow_fast/kernels/loss.py" in out


def test_editable_install(tmp_path):
    """The environment of these tests is one where `make test` has made it."""
    here = json.dumps({"dir_info": {"editable": True}, "url": ROOT.as_uri()})
    found = metadata.distributions(name="sectow_fast", path=site.getsitepackages())
    if here not in [one.read_text("direct_url.json") for one in found]:
        pytest.skip("this checkout is not what is installed, as by `make test`")
    assert str(ROOT / "kernels" / "loss.py") in probe(tmp_path, [])
    assert not any(Path(folder, "kernels").exists() for folder in site.getsitepackages())
