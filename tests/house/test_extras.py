"""The kernels need torch and numpy alone; the trainer says which extra is missing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ["train", "evaluate", "report.html", "report.results", "data.sandbox.layouts"]


def torch_alone() -> set[str]:
    """Distributions that torch and numpy bring along."""
    found, waiting = set(), ["torch", "numpy"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [re.split(r"[\s\[;<>=!~(]", x)[0] for x in lines if "extra ==" not in x]
    return found


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """The python of an environment with torch and numpy (linked, to save minutes) and a wheel."""
    base = tmp_path_factory.mktemp("bare")
    venv.create(base / "venv", with_pip=False, symlinks=True)
    (site,) = (base / "venv" / "lib").glob("python*/site-packages")
    for name in torch_alone():
        one = metadata.distribution(name)
        for top in {Path(str(file)).parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(one.locate_file(top))
    put = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel]
    subprocess.run(put, check=True, capture_output=True)
    return base / "venv" / "bin" / "python"


def ran(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_readmes_kernel_example_runs_with_torch_and_numpy_alone(bare, tmp_path):
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(from sectow_fast\.kernels .*?)```", readme, re.S)
    given = """
import torch
rewards = torch.rand(16)
hidden = torch.randn(48, 32, requires_grad=True)
lm_head = torch.nn.Linear(32, 100, bias=False)
labels = torch.randint(0, 100, (48,))
sequence_of_token = torch.arange(16).repeat_interleave(3)
"""
    after = """
import importlib.util, sys
assert torch.isfinite(loss) and hidden.grad.abs().sum() > 0 and lm_head.weight.grad is not None
from sectow_fast import native
assert native.HAVE_EXTENSION
for name in ("transformers", "pydantic", "rich", "matplotlib", "PIL", "tokenizers"):
    assert importlib.util.find_spec(name) is None, name
"""
    done = ran(bare, tmp_path, "-c", given + example + after)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_extra_it_misses(bare, tmp_path, command):
    done = ran(bare, tmp_path, "-m", f"sectow_fast.{command}", "--help")
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "found no transformers" in done.stderr
    assert done.stderr.endswith("pip install 'sectow-fast[train]'\n")


@pytest.mark.parametrize("room", ["config", "learn", "engine", "game", "data", "report"])
def test_an_import_of_the_trainer_names_the_extra_it_misses(bare, tmp_path, room):
    done = ran(bare, tmp_path, "-c", f"import sectow_fast.{room}")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "MissingExtra: found no transformers" in last
    assert "pip install 'sectow-fast[train]'" in last


@pytest.mark.parametrize("host", ["trl", "verl"])
def test_an_adapter_names_the_extra_it_misses(bare, tmp_path, host):
    last = ran(bare, tmp_path, "-c", f"import sectow_fast.adapters.{host}").stderr.splitlines()[-1]
    assert f"MissingExtra: found no {host}" in last
    assert last.endswith(f"pip install 'sectow-fast[{host}]'")


def test_every_package_of_an_import_is_in_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bare = {re.split(r"[<>=]", x)[0] for x in project["dependencies"]}
    assert bare == {"torch", "numpy"}
    named = {re.split(r"[<>=;\[]", x)[0] for extra in extras.values() for x in extra}
    named |= bare
    # Backends that are named where they are chosen, and what comes with torch and jinja2.
    named |= {"flash-attn", "xformers", "triton", "MarkupSafe", "tensorboard"}
    found = set()
    for path in (ROOT / "sectow_fast").rglob("*.py"):
        if "sglang_models" in path.parts:
            continue  # runs inside SGLang's process
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    theirs = found - set(sys.stdlib_module_names) - {"sectow_fast"}
    owners = metadata.packages_distributions()
    unknown = {
        name for name in theirs if not {*owners.get(name, ()), name, name.replace("_", "-")} & named
    }
    assert not unknown
