"""The work that is measured: which prompts and rewards, and how replies keep their full length.

All prompts have a picture, because TRL wants one in every row of a batch or in none, and this
project is about pictures. Every picture and text is new to both sides at every step (fresh caches),
as in the first pass over a data set; pictures come decoded, from memory. The end token is never
sampled, so every completion has the full length on both sides and the token counts are equal.

`OurStep` and `peer.make_trainer` take any work with the attributes of `Work` (`Scene` is another).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sectow_fast.config import DefendConfig
from sectow_fast.data.codec import ChatCodec
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.types import Case

CONFIG = DefendConfig()


class Held:
    """Decoded pictures by key, an `ImageStore`: drawing the sandbox's pictures is not part of a
    step."""

    def __init__(self, images: Any, cases: Sequence[Case]) -> None:
        self._held = {case.image: images.open(case.image) for case in cases if case.image}

    def open(self, key: str) -> Image.Image:
        return self._held[key]

    def size(self, key: str) -> tuple[int, int]:
        return self._held[key].size


@dataclass(frozen=True, kw_only=True)
class Work:
    """One GRPO step: `prompts` groups of `group_size`, of which a share `live` has a signal."""

    stage: SandboxStage
    prompts: int = CONFIG.prompts
    group_size: int = CONFIG.group_size
    live: float = 1.0
    config = CONFIG
    strings = False  # whether the chat template takes strings and no parts
    clock = staticmethod(time.perf_counter)

    @property
    def processor(self) -> Any:
        return self.stage.processor

    def model(self) -> Any:
        return self.stage.defender()

    def pictures(self) -> Held:
        return Held(self.stage.world.images, self.cases)

    @property
    def cases(self) -> list[Case]:
        shown = [case for case in self.stage.world.train_cases("harmless") if case.image]
        return shown[: self.prompts]

    @property
    def completions(self) -> int:
        return self.prompts * self.group_size

    @property
    def tokens(self) -> int:
        """Completion tokens of a step."""
        return self.completions * self.config.max_new_tokens

    @property
    def live_groups(self) -> int:
        return round(self.live * self.prompts)

    def reward(self, group: int, completion: int) -> float:
        """Half of a live group's completions are right, and all of a dead group's."""
        return float(completion % 2) if group < self.live_groups else 1.0

    def codec(self, images: Any) -> ChatCodec:
        """A codec with empty caches that bans the end token."""
        codec = ChatCodec(self.processor, images)
        codec.banned_ids = tuple(sorted({*codec.banned_ids, *codec.end_ids}))
        return codec
