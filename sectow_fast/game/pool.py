"""The kept attacks as `pool.jsonl` has them: one JSON object per line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sectow_fast.types import Attack, Case


def attack_as_dict(attack: Attack) -> dict[str, Any]:
    """A JSON object; `attack_from_dict` is its inverse. Style, goal and image stand on top too."""
    case = attack.case
    return dataclasses.asdict(attack) | {
        "style": case.style,
        "goal": case.goal,
        "image": case.image,
    }


def attack_from_dict(row: Mapping[str, Any]) -> Attack:
    names = {field.name for field in dataclasses.fields(Attack)}
    values = {name: value for name, value in row.items() if name in names}
    return Attack(**values | {"case": Case(**row["case"])})


def pool_lines(pool: Sequence[Attack]) -> str:
    """The text of `pool.jsonl`."""
    return "".join(json.dumps(attack_as_dict(attack)) + "\n" for attack in pool)
