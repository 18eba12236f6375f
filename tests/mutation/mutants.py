"""The mutants of one file: mutmut's operators, applied in every place where code can be wrong.

mutmut's own driver copies each function once per mutant and leaves out decorated functions, class
bodies and module level. So only its operators are used, on the whole file.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.file_mutation import NEVER_MUTATE_FUNCTION_CALLS, deep_replace
from mutmut.mutation.mutators import mutation_operators


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One changed place. function: the outermost function's qualified name, or None where the place
    runs at import (constants, defaults, class bodies). first and last: lines of its statement."""

    path: Path
    line: int
    first: int
    last: int
    function: str | None
    diff: str
    source: str  # the whole file's


def drawn(mutants: Sequence[Mutant], most: int | None, *, key: str) -> Sequence[Mutant]:
    """`most` of the mutants, drawn at random by `key`, in their order; None: all of them."""
    if most is None or most >= len(mutants):
        return mutants
    places = random.Random(key).sample(range(len(mutants)), most)
    return [mutants[i] for i in sorted(places)]


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file that can be compiled, in the order of its lines."""
    text = path.read_text()
    begins = [0]
    for line in text.splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    wrapper = MetadataWrapper(cst.parse_module(text))
    collector = _Collector()
    wrapper.visit(collector)
    seen = {text}
    for place in sorted(collector.places, key=lambda place: place.line):
        source = _spliced(text, begins, place, wrapper.module)
        # Two operators may make one text; the compiler may refuse another (a `break` moved away).
        if source in seen or not _compiles(source, path):
            continue
        seen.add(source)
        yield Mutant(
            path=path,
            line=place.line,
            first=place.first,
            last=place.last,
            function=place.function,
            diff=_diff(text, source),
            source=source,
        )


@dataclass(frozen=True, kw_only=True)
class _Place:
    old: cst.CSTNode
    new: cst.CSTNode
    range: CodeRange | None
    line: int
    first: int
    last: int
    function: str | None


class _Collector(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        self.places: list[_Place] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _left_out(node):
            return False
        if not isinstance(node, cst.BaseString) or not self._in_message(node):
            for kind, operator in mutation_operators:
                if isinstance(node, kind):
                    for new in operator(node):
                        if not _loosens_zip(node, new):
                            self.places.append(self._place(node, new))
        return True

    def _above(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        above = self.get_metadata(ParentNodeProvider, node, None)
        while above is not None:
            yield above
            above = self.get_metadata(ParentNodeProvider, above, None)

    def _in_message(self, node: cst.CSTNode) -> bool:
        return any(isinstance(above, cst.Raise) for above in self._above(node))

    def _place(self, node: cst.CSTNode, new: cst.CSTNode) -> _Place:
        chain = [node, *self._above(node)]
        names: list[str] = []
        function = None
        below: cst.CSTNode | None = None
        for above in chain:
            # A default of an argument and a decorator run when the function is made.
            if isinstance(above, cst.FunctionDef) and below is above.body:
                names, function = [above.name.value], above
            elif isinstance(above, cst.ClassDef) and function is not None:
                names.append(above.name.value)
            below = above
        kinds = (cst.SimpleStatementLine, cst.BaseCompoundStatement)
        statement = next(one for one in chain if isinstance(one, kinds))
        where = self.get_metadata(PositionProvider, statement)
        last = where.end.line
        if isinstance(statement, cst.BaseCompoundStatement):
            body = statement.cases[0] if isinstance(statement, cst.Match) else statement.body
            last = max(where.start.line, self.get_metadata(PositionProvider, body).start.line - 1)
        position = self.get_metadata(PositionProvider, node, None)
        return _Place(
            old=node,
            new=new,
            range=position,
            line=position.start.line if position else where.start.line,
            first=where.start.line,
            last=last,
            function=".".join(reversed(names)) if function else None,
        )


def _is_type(value: cst.BaseExpression) -> bool:
    """Whether an assigned value is a type's alias."""
    return (
        isinstance(value, cst.Subscript)
        and isinstance(value.value, cst.Name)
        and value.value.value in ("Callable", "Literal", "Mapping")
    )


def _spliced(text: str, begins: list[int], place: _Place, module: cst.Module) -> str:
    """The file with one node changed. Its text is cut in where that is exact: this is quick."""
    if place.range is not None:
        start = begins[place.range.start.line - 1] + place.range.start.column
        end = begins[place.range.end.line - 1] + place.range.end.column
        if text[start:end] == module.code_for_node(place.old):
            return text[:start] + module.code_for_node(place.new) + text[end:]
    return deep_replace(module, place.old, place.new).code


def _left_out(node: cst.CSTNode) -> bool:
    """Nodes that say nothing of behaviour, with all below them."""
    if isinstance(node, (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom)):
        return True
    if isinstance(node, cst.Assign):
        target = node.targets[0].target
        return (isinstance(target, cst.Name) and target.value == "__all__") or _is_type(node.value)
    if isinstance(node, cst.If):
        return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
        return node.func.value in NEVER_MUTATE_FUNCTION_CALLS
    # zip(..., strict=True) is an assertion; it changes no result.
    return isinstance(node, cst.Arg) and bool(node.keyword) and node.keyword.value == "strict"


def _loosens_zip(old: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether all that changed is the `strict=True` of a call."""

    def strict(node: cst.CSTNode) -> list[str]:
        if not isinstance(node, cst.Call):
            return []
        named = [arg for arg in node.args if arg.keyword and arg.keyword.value == "strict"]
        return [cst.Module([]).code_for_node(arg.value) for arg in named]

    return strict(old) != strict(new)


def _compiles(source: str, path: Path) -> bool:
    try:
        compile(source, str(path), "exec")
    except SyntaxError:
        return False
    return True


def _diff(old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))
