"""Settings of training on the toy suites."""

from __future__ import annotations

from sectow_fast.config import DataConfig


def named(folders, *names) -> tuple[str, ...]:
    return tuple(f"{name}={folders / name.split(':')[0]}" for name in names)


def data(folders, **more) -> DataConfig:
    given = {
        "unsafe": named(folders, "jailbreakv", "vlguard"),
        "harmless": named(folders, "or-bench:80k", "mmmu"),
        "test": named(folders, "figstep", "xstest", "mmmu-pro", "mossbench"),
    }
    return DataConfig(**given | more)
