"""The names of torch, transformers and Triton that the sources spell, and which are missing here.

Those are imports, attributes of imports (`torch.nn.functional.pad`), and the keywords of calls to
them. Methods of tensors and of other objects are not among them. All are read from the sources, so
the question can be put to any machine, with any versions, before anything else runs:
`python -m bench.gpu_check.names` is the first stage of `make gpu-check`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("sectow_fast", "kernels", "bench/gpu_check")
LIBRARIES = ("torch", "transformers", "triton")

Names = dict[str, set[str]]


def collect(folders: Sequence[Path]) -> Names:
    """Dotted name -> the keywords that it is called with, over all files of these folders."""
    found: Names = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            for name, keywords in names_in(path.read_text()):
                found.setdefault(name, set()).update(keywords)
    return dict(sorted(found.items()))


def here() -> Names:
    """The names of this checkout."""
    return collect([ROOT / one for one in SOURCES])


def names_in(source: str) -> Iterator[tuple[str, set[str]]]:
    """(dotted name, keywords of this call) of each import and attribute chain in a file."""
    nodes = list(ast.walk(ast.parse(source)))
    alias: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            pairs = [(n.name, n.asname or n.name.split(".")[0], n.asname) for n in node.names]
            alias |= {to: name if given else to for name, to, given in pairs if _ours(name)}
        elif isinstance(node, ast.ImportFrom) and not node.level and _ours(node.module or ""):
            pairs = [(f"{node.module}.{n.name}", n.asname or n.name, None) for n in node.names]
            alias |= {to: name for name, to, _ in pairs}
        else:
            continue
        yield from ((name, set()) for name, *_ in pairs if _ours(name))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    calls = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        name = None if id(node) in inner else _dotted(node, alias)
        if name is not None:
            given = calls[id(node)].keywords if id(node) in calls else []
            yield name, {keyword.arg for keyword in given if keyword.arg}


def _ours(name: str) -> bool:
    return name.split(".")[0] in LIBRARIES


def _dotted(node: ast.AST, alias: Mapping[str, str]) -> str | None:
    """`torch.nn.functional.pad` for a chain that begins at an imported name, else None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in alias:
        return None
    return ".".join([alias[node.id], *reversed(parts)])


def missing(names: Mapping[str, set[str]]) -> list[str]:
    """What the installed versions do not have: "NAME: why", or "NAME(keyword=)".

    A module that cannot be imported without a third package (torch.utils.tensorboard) is left out:
    who needs the package says so where it is used.
    """
    out = []
    for name, keywords in names.items():
        try:
            value = resolve(name)
        except ModuleNotFoundError as error:
            if _ours(error.name or ""):
                out.append(f"{name}: {error}")
        except (ImportError, AttributeError) as error:
            out.append(f"{name}: {error}")
        else:
            out += [f"{name}({one}=)" for one in sorted(keywords) if not _takes(value, one)]
    return out


def resolve(name: str) -> object:
    """The object of a dotted name. ImportError or AttributeError where it is not there."""
    parts = name.split(".")
    value: object = importlib.import_module(parts[0])
    for at, part in enumerate(parts[1:], 2):
        if not hasattr(value, part) and inspect.ismodule(value):
            # A lazy package does not always have what is imported under its name.
            value = importlib.import_module(".".join(parts[:at]))
        else:
            value = getattr(value, part)
    return value


def _takes(value: object, keyword: str) -> bool:
    """Whether a call takes this keyword; true where the function does not tell (written in C)."""
    try:
        parameters = inspect.signature(value).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True
    kinds = {one.kind for one in parameters.values()}
    return keyword in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def main() -> int:
    names = here()
    lost = missing(names)
    print("\n".join(lost) or f"{len(names)} names of {', '.join(LIBRARIES)}: all are there")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
