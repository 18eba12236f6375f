"""A run's configuration: a preset or a TOML file, and flags over it.

Plugins come first: what they register can be named in any other setting.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sectow_fast.cli import (
    PLUGINS,
    Flag,
    extra_flag,
    first_problem,
    flags_of,
    merged,
    nested,
    read_all_flags,
    read_flags,
    unknown_setting,
)
from sectow_fast.config import Config
from sectow_fast.plugins import load_plugins
from sectow_fast.types import UserError

PRESETS = Path(__file__).parent / "presets"

ExtraFlags = Callable[[], Mapping[str, Any]]  # {dotted name: default}; called after the plugins


class Options(BaseModel):
    """What the command itself is told, beside the settings of the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str | None = None
    config: str | None = None
    out: str | None = None
    resume: str | None = None
    accept_changes: bool = Field(
        False, description="with --resume: go on although settings, data, models or code changed"
    )
    dry_run: bool = False
    plain: bool = False


class _Plugins(BaseModel):
    """The one setting that is read before all others."""

    plugins: tuple[str, ...] = ()


OPTIONS = flags_of(Options(), hyphens=True)
_BESIDE = ("resume", "accept_changes", "dry_run", "plain")
BESIDE_RESUME = [flag for flag in OPTIONS if flag.name in _BESIDE]


def read_command(
    arguments: Sequence[str], *, extra_flags: ExtraFlags = dict
) -> tuple[Options, Config]:
    """What the command was told, and the run's configuration. UserError names what is wrong."""
    given, _ = read_flags(arguments, OPTIONS)
    try:
        options = Options.model_validate(given)
    except ValidationError as error:
        name, words, _ = first_problem(error)
        raise UserError(f"--{name.replace('_', '-')}: {words}") from None
    if options.resume is None:
        if options.accept_changes:
            raise UserError(
                "--accept-changes: found without --resume, expected beside it; a new run has"
                " nothing that could have changed"
            )
        path = _file_of(options)
        return options, load_config(path, arguments, extra_flags=extra_flags)
    _, rest = read_flags(arguments, BESIDE_RESUME)
    if rest:
        raise UserError(
            f"--resume {options.resume}: found other settings beside it ({' '.join(rest)}),"
            " expected none: a run goes on with the configuration it began with;"
            " start a new run by --out to change settings"
        )
    path = Path(options.resume) / "config.toml"
    if not path.is_file():
        raise UserError(
            f"--resume {options.resume}: found no config.toml, expected the folder of a run;"
            " give the folder that --out named"
        )
    return options, load_config(path, extra_flags=extra_flags)


def load_config(
    path: Path, arguments: Sequence[str] = (), *, extra_flags: ExtraFlags = dict
) -> Config:
    """The file, then the flags over it; the plugins that either names are loaded.

    extra_flags: settings that registered things know and `Config` does not, asked for where plugins
    were loaded. UserError names the file or the setting, what was found and the nearest
    known setting.
    """
    values = _toml(path)
    early, _ = read_flags(arguments, [PLUGINS])
    plugins = _loaded_plugins(path, values | early)
    values |= plugins
    known = config_flags(extra_flags() if plugins else {})
    given = read_all_flags(arguments, [*OPTIONS, *known])
    for name in ("plugins", *Options.model_fields):
        given.pop(name, None)
    try:
        return Config.model_validate(merged(values, nested(given)))
    except ValidationError as error:
        name, words, unknown = first_problem(error)
        where = f"{path}: " if name not in given and _is_wrong(values) else ""
        if unknown:
            words = unknown_setting(name, [flag.shown.removeprefix("--") for flag in known])
            raise UserError(where + words) from None
        raise UserError(f"{where}{name or 'settings'}: {words}") from None


def _toml(path: Path) -> dict[str, Any]:
    """The file's settings; `"null"` is None. A byte order mark, as some editors write, is left
    out."""
    try:
        return _with_nulls(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected a file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: found no UTF-8 text ({error}), expected TOML in UTF-8") from None
    except RecursionError:
        raise UserError(f"{path}: found lists in lists without end, expected settings") from None
    except ValueError as error:  # TOMLDecodeError, or a number too large for Python
        raise UserError(f"{path}: found no valid TOML ({error}); mend that line") from None


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_nulls(item) for name, item in value.items()}
    return None if value == "null" else value


def _is_wrong(values: Mapping[str, Any]) -> bool:
    """Whether a file alone is refused, so that the mistake is not that of a flag."""
    try:
        Config.model_validate(dict(values))
    except ValidationError:
        return True
    return False


def config_flags(extra: Mapping[str, Any]) -> list[Flag]:
    """A flag for every setting of a run."""
    return [*flags_of(Config()), *(extra_flag(name, value) for name, value in extra.items())]


def _loaded_plugins(path: Path, values: Mapping[str, Any]) -> dict[str, list[str]]:
    """{"plugins": what was loaded}, files by their whole path: a run may be resumed elsewhere."""
    try:
        names = _Plugins.model_validate(dict(values)).plugins
    except ValidationError as error:
        name, words, _ = first_problem(error)
        raise UserError(f"{path}: {name}: {words}") from None
    names = [str(Path(name).resolve()) if name.endswith(".py") else name for name in names]
    load_plugins(names)
    return {"plugins": names} if names else {}


def _file_of(options: Options) -> Path:
    """The TOML file that was asked for."""
    for name in ("preset", "config", "out"):
        if getattr(options, name) == "":
            raise UserError(f"--{name}: found nothing after it, expected a name")
    if options.config is not None:
        path = Path(options.config)
        if options.preset is not None:
            raise UserError(
                f"--preset {options.preset}: found beside --config {path}, expected one of the two"
            )
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise UserError(f"--config {path}: found {found}, expected a TOML file")
        return path
    presets = {path.stem: path for path in sorted(PRESETS.glob("*.toml"))}
    name = options.preset or "sandbox"
    if name not in presets:
        near = difflib.get_close_matches(name.lower(), presets, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"--preset {name}: found no such preset, expected one of: {', '.join(presets)}{hint}"
        )
    return presets[name]
