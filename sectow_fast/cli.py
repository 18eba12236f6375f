"""The flags of a command: every field of a pydantic model is one, `--section.field VALUE`.

argparse reads them. Values stay strings, so that pydantic checks flags and files by the same rules
and in the same words. Sections may be nested to any depth.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args, get_origin

from sectow_fast.extras import require
from sectow_fast.plugins import load_plugins
from sectow_fast.types import UserError

require("train")  # before the import that would fail

from pydantic import BaseModel, ValidationError  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One setting on the command line.

    name: dotted, as the model has it.
    spelling: what follows the two hyphens.
    many: the value is a list, separated by commas; the flag may be repeated.
    switch: the value may be left out, which means true.
    optional: the value `null` means None.
    keyed: the field is a dict, and `--name.KEY VALUE` sets one of its entries.
    """

    name: str
    spelling: str
    default: Any = None
    description: str = ""
    many: bool = False
    switch: bool = False
    optional: bool = False
    keyed: bool = False

    @property
    def shown(self) -> str:
        """How the flag is written in help and in hints."""
        return f"--{self.spelling}.NAME" if self.keyed else f"--{self.spelling}"


def flags_of(settings: BaseModel, *, hyphens: bool = False, prefix: str = "") -> list[Flag]:
    """A flag for each field of `settings`, whose values are the defaults.

    hyphens: `--judge-url` for the field `judge_url`.
    """
    flags: list[Flag] = []
    for field, info in type(settings).model_fields.items():
        name, default = prefix + field, getattr(settings, field)
        if isinstance(default, BaseModel):
            flags += flags_of(default, hyphens=hyphens, prefix=f"{name}.")
            continue
        kind = get_origin(info.annotation) or info.annotation
        flags.append(
            Flag(
                name=name,
                spelling=name.replace("_", "-") if hyphens else name,
                default=default,
                description=info.description or "",
                many=kind in (tuple, list),
                switch=kind is bool,
                optional=type(None) in get_args(info.annotation),
                keyed=kind is dict,
            )
        )
    return flags


def extra_flag(name: str, default: Any) -> Flag:
    """The flag of a setting that the model has no field for, such as a registered loss's number."""
    return Flag(
        name=name,
        spelling=name,
        default=default,
        many=isinstance(default, tuple | list),
        switch=isinstance(default, bool),
        optional=default is None,
    )


PLUGINS = Flag(name="plugins", spelling="plugins", many=True)


def load_named_plugins(arguments: Sequence[str]) -> list[str]:
    """Load what `--plugins` names, and leave all other words alone; the names."""
    names = read_flags(arguments, [PLUGINS])[0].get("plugins", [])
    load_plugins(names)
    return names


def read_flags(arguments: Sequence[str], flags: Sequence[Flag]) -> tuple[dict[str, Any], list[str]]:
    """({dotted name: what was given}, the words that belong to none of `flags`).

    UserError where a flag has no value.
    """
    parser = argparse.ArgumentParser(
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    # Flags begin with two hyphens here. argparse would take the number -1e-3 for a flag.
    parser._negative_number_matcher = re.compile("-[^-]")
    for flag in _with_keys(arguments, flags):
        how: dict[str, Any] = {}
        if flag.many:
            how = {"action": "extend", "type": split_list}
        elif flag.optional:
            how = {"type": _or_none}
        elif flag.switch:
            how = {"nargs": "?", "const": "true"}
        parser.add_argument(f"--{flag.spelling}", dest=flag.name, **how)
    try:
        found, rest = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(
            f"{error.argument_name}: found no value, expected one; see --help"
        ) from None
    return vars(found), rest


def read_all_flags(arguments: Sequence[str], flags: Sequence[Flag]) -> dict[str, Any]:
    """Like `read_flags`, but a word that belongs to no flag is a UserError."""
    found, rest = read_flags(arguments, flags)
    if not rest:
        return found
    word, known = rest[0].partition("=")[0], [flag.shown for flag in flags]
    if not word.startswith("--") and not (word.startswith("-") and _near(word, known, 0.7)):
        raise UserError(f"{rest[0]!r}: found a bare word, expected --name VALUE; see --help")
    raise UserError(unknown_setting(word, known))


def split_list(text: str) -> list[str]:
    """The values of a list: by commas, in quotes where a value holds a comma itself.

    >>> split_list('figstep=/a,"xstest=/b,c"')
    ['figstep=/a', 'xstest=/b,c']
    """
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return next(csv.reader([text], skipinitialspace=True), []) or [""]
    except csv.Error:  # a line break
        return text.split(",")


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to sections.

    >>> nested({"seed": "1", "attack.loss.clip_low": "0.1"})
    {'seed': '1', 'attack': {'loss': {'clip_low': '0.1'}}}
    """
    out: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        inner = out
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UserError(f"--{name}: found a value for {section} as well, expected one")
        inner[last] = value
    return out


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section."""
    out = dict(below)
    for name, value in above.items():
        if isinstance(value, Mapping) and isinstance(out.get(name), Mapping):
            out[name] = merged(out[name], value)
        else:
            out[name] = value
    return out


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """One line that names the nearest known setting; the hyphens of a flag do not count."""
    known, bare = list(known), name.lstrip("-")
    inside = [one for one in known if one.lstrip("-").startswith(f"{bare}.")]
    if bare and inside:
        return (
            f"{name}: found the name of a section, expected one of its settings; did you mean"
            f" {inside[0]}?"
        )
    alike = [one for one in known if one.endswith(f".{bare}")]
    near = [" or ".join(alike)] if alike and len(alike) <= 4 else _near(name, known, 0.4)
    hint = f"did you mean {near[0]}?" if near else "see --help for every setting"
    return f"{name}: found an unknown setting, expected a known one; {hint}"


def _near(name: str, known: Iterable[str], cutoff: float) -> list[str]:
    """The setting that is nearest, or none. In a file a section may be meant as well."""
    shown = {one.lstrip("-"): one for one in known}
    if not name.startswith("-"):
        for one in list(shown):
            for at, letter in enumerate(one):
                if letter == ".":
                    shown.setdefault(one[:at], one[:at])
    found = difflib.get_close_matches(name.lstrip("-"), shown, n=1, cutoff=cutoff)
    return [shown[one] for one in found]


def first_problem(error: ValidationError) -> tuple[str, str, bool]:
    """(dotted name of the setting, what was found and expected, whether the name is unknown)."""
    first = error.errors()[0]
    kind, found = first["type"], repr(first["input"])[:80]
    name = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    words = f"found {found}, {first['msg'][:1].lower()}{first['msg'][1:]}"
    if kind == "value_error":  # a check of ours, which says what it found
        words = str(first["ctx"]["error"])
    elif kind in ("model_type", "dict_type"):
        words = f"found {found}, expected a section of settings ([{name}] in a file)"
    elif kind == "tuple_type":
        words = f"found {found}, expected a list, such as ['...'] in a file"
    elif found in ("'None'", "'none'"):
        words += "; null means none"
    return name, words, kind == "extra_forbidden"


def help_lines(flags: Iterable[Flag]) -> list[str]:
    """One line per setting, with its default and what it is."""
    lines = []
    for flag in flags:
        default = "" if flag.default in ((), [], {}, "", None) else flag.default
        if flag.many:
            default = ",".join(map(str, flag.default))
        about = f"   ({flag.description})" if flag.description else ""
        lines.append(f"  {flag.shown} = {default}".rstrip() + about)
    return lines


def _with_keys(arguments: Sequence[str], flags: Sequence[Flag]) -> list[Flag]:
    """`flags`, where those of dict fields are replaced by a flag for each key that is given."""
    named = {word.removeprefix("--").partition("=")[0]: None for word in arguments}
    out = {flag.name: flag for flag in flags if not flag.keyed}
    for flag in flags:
        for word in named if flag.keyed else ():
            if word.startswith(f"{flag.spelling}."):
                key = flag.name + word.removeprefix(flag.spelling)
                out.setdefault(key, replace(flag, name=key, spelling=word, keyed=False))
    return list(out.values())


def _or_none(text: str) -> str | None:
    return None if text == "null" else text
