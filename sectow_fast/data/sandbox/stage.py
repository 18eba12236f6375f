"""What a run needs of an embedded world: world, codec, lessons, and how models are kept."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sectow_fast.config import Config
from sectow_fast.data.codec import ChatCodec, kept_pictures
from sectow_fast.data.dual.lessons import DualLessons
from sectow_fast.data.dual.space import DualSpace
from sectow_fast.data.dual.world import DualWorld
from sectow_fast.data.processor import cap_pixels, load_model, load_processor
from sectow_fast.data.sandbox.lessons import Lessons
from sectow_fast.data.sandbox.model import (
    TinyLessons,
    TinyWorld,
    build_model,
    build_processor,
    model_config,
    save_model,
)
from sectow_fast.data.sandbox.proxies import make_proxies
from sectow_fast.data.sandbox.space import SandboxSpace
from sectow_fast.data.sandbox.world import SandboxWorld
from sectow_fast.model_folder import check_folder
from sectow_fast.protocols import AttackSpace, DataRow, Judge, Lesson
from sectow_fast.types import Attack, JudgedBy, UserError

if TYPE_CHECKING:
    import torch


def _parts(config: Config) -> tuple[TinyWorld, TinyLessons, AttackSpace]:
    """The world that `sandbox.world` names, what is taught of it, and its attack space."""
    if config.sandbox.world == "dual":
        dual = DualWorld(seed=config.seed, config=config.sandbox)
        return dual, DualLessons(world=dual), DualSpace(dual)
    small = SandboxWorld(seed=config.seed, config=config.sandbox)
    return small, Lessons(world=small), SandboxSpace(small)


class SandboxStage:
    """The stage of `match.Match`."""

    notes = ()
    needs_replies = False
    judged = JudgedBy(
        by="the sandbox", people="it made the requests and knows what is harmful there"
    )

    def __init__(self, config: Config) -> None:
        from transformers.utils import logging

        # Its bars would tear the live display, and the models here load in milliseconds.
        logging.disable_progress_bar()
        self.config = config
        self.world, self._lessons, self.space = _parts(config)
        self.measures = self.world.measures
        self.proxies: dict[str, Judge] = make_proxies(
            self.world.judge_all,
            recipe=self.world.recipe,
            refusal=self.world.refusal,
            error=config.game.guard_error,
            seed=config.seed,
        )
        self.lessons: dict[str, Lesson] = {
            "coldstart-caption": self._lessons.caption,
            "coldstart-defender": self._lessons.instruct,
            "coldstart-attacker": self._lessons.attacker,
        }
        self.processor = self._processor()
        if config.model.max_pixels is not None:
            cap_pixels(self.processor.image_processor, config.model.max_pixels)
        self.chat_template = str(self.processor.chat_template)
        self.codec = ChatCodec(self.processor, self.world.images, **kept_pictures(config))

    def _processor(self) -> Any:
        own = build_processor(self.world)
        for name in ("defender", "attacker"):
            folder = getattr(self.config.model, name)
            if folder is None:
                continue
            path = Path(folder)
            check_folder(path, role=f"model.{name}")
            loaded = load_processor(path, role=f"model.{name}")
            if loaded.tokenizer.get_vocab() != own.tokenizer.get_vocab():
                raise UserError(
                    f"model.{name} {folder}: found the vocabulary of another world, expected that"
                    f" of seed {self.config.seed}; give the seed"
                    " and the plugins that the model was trained with"
                )
        return own

    def defender(self) -> Any:
        folder = self.config.model.defender
        return self.load(Path(folder)) if folder else self._fresh()

    def attacker(self) -> Any:
        folder = self.config.model.attacker or self.config.model.defender
        return self.load(Path(folder)) if folder else self._fresh()

    def _fresh(self) -> Any:
        config = self.config
        return build_model(
            self.world,
            seed=config.seed,
            hidden_size=config.model.hidden_size,
            layers=config.model.layers,
        )

    def load(self, folder: Path) -> Any:
        # False, and never None, at which transformers would ask the terminal.
        trust = self.config.model.trust_remote_code
        return load_model(folder, dtype="float32", trust=trust)

    def save(
        self, model: Any, folder: Path, *, weights: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, self.processor, folder, weights=weights)

    def describe(self, folder: Path) -> None:
        """See `protocols.Stage`."""
        from transformers import AutoConfig

        own = self.config.model
        if own.defender:
            made = AutoConfig.from_pretrained(own.defender, trust_remote_code=own.trust_remote_code)
        else:
            made = model_config(self.world, hidden_size=own.hidden_size, layers=own.layers)
        made.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def safe_lesson(self, pool: Sequence[Attack], replies: Mapping[str, str]) -> Lesson:
        """See `protocols.Stage`; here the right replies are known."""
        share = self.config.defend.harmless_share
        return partial(self._lessons.safe, pool=pool, harmless_share=share)

    def refusal_lesson(self, replies: Mapping[str, str]) -> Lesson:
        """See `protocols.Stage`; here the right replies are known."""
        return partial(self._lessons.safe, pool=(), harmless_share=0.5)

    def versions(self) -> dict[str, str]:
        import torch
        import transformers

        import sectow_fast

        return {
            "sectow_fast": sectow_fast.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def rows(self) -> tuple[DataRow, ...]:
        """See `protocols.Stage`."""
        return ()
