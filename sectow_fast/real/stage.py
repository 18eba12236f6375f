"""What a run on real suites needs in one place: world, codec, lessons, and how models are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sectow_fast.config import Config, GRPOConfig
from sectow_fast.data.codec import ChatCodec, kept_pictures
from sectow_fast.data.images import FileStore
from sectow_fast.data.processor import keep_size, load_model, load_processor
from sectow_fast.data.special import ModelTokens, PlainText
from sectow_fast.judges import Told
from sectow_fast.model_folder import GGUF, check_folder, configuration, reading
from sectow_fast.protocols import DataRow, Judge, Lesson
from sectow_fast.real.build import Built, build_world, judged_by
from sectow_fast.real.world import SuiteWorld
from sectow_fast.types import Attack, Case, UserError

if TYPE_CHECKING:
    import torch

WEIGHTS = (GGUF, ".safetensors", ".bin", ".pt", ".pth", ".safetensors.index.json")


def room(config: Config, phase: GRPOConfig) -> int:
    """The most tokens of a prompt and its reply."""
    return min(config.engine.context_length or phase.tokens_per_batch, phase.tokens_per_batch)


def check_cap(config: Config, tokens: int) -> None:
    """UserError where a picture of `tokens` tokens, which is the largest under the cap, leaves no
    room for words; before any model is loaded."""
    for name, phase in (("attack", config.attack), ("defend", config.defend)):
        most = room(config, phase)
        if tokens + phase.max_new_tokens >= most:
            raise UserError(
                f"model.max_pixels {config.model.max_pixels}: found up to {tokens} tokens for a"
                f" picture and {name}.max_new_tokens {phase.max_new_tokens}, expected fewer than"
                f" {most} in all (engine.context_length, {name}.tokens_per_batch); lower it"
            )


class RealLessons:
    """Cold start of the attacker, and the SFT baseline; the defender comes trained."""

    def __init__(self, world: SuiteWorld) -> None:
        self.world = world
        cases = (*world.split.unsafe, *world.split.harmless)
        self._replies = {case.id: case.reply for case in cases if case.reply}

    def attacker(self, rng: random.Random) -> tuple[Case, str]:
        """Self-instruct demonstrations: write an attack for a goal, or refine one."""
        seed = rng.choice(self.world.seeds("train"))
        previous = None
        if rng.random() < 0.3:
            words = self.world.self_instruct(seed, rng)
            previous = Attack(
                case=seed, seed_id=seed.id, mode="self-instruct", words=words, round=0
            )
        return self.world.attacker_case(seed, previous), self.world.self_instruct(seed, rng)

    def safe(
        self,
        rng: random.Random,
        pool: Sequence[Attack],
        *,
        harmless_share: float,
        answered: Sequence[tuple[Case, str]],
    ) -> tuple[Case, str]:
        """Unsafe requests refused (VLGuard by its own replies), harmless ones as `answered` has
        them."""
        if rng.random() < harmless_share:
            return rng.choice(answered)
        if pool and rng.random() < 0.5:
            return rng.choice(pool).case, self.world.wording.refusal
        case = rng.choice(self.world.train_cases("unsafe"))
        return case, self._replies.get(case.id, self.world.wording.refusal)

    def refusal(self, rng: random.Random, replies: Mapping[str, str]) -> tuple[Case, str]:
        """Half refusals, half the model's own harmless replies."""
        if rng.random() < 0.5:
            taught = [c for c in self.world.train_cases("harmless") if c.id in replies]
            case = rng.choice(taught)
            return case, replies[case.id]
        case = rng.choice(self.world.train_cases("unsafe"))
        return case, self._replies.get(case.id, self.world.wording.refusal)

    def answered(self, replies: Mapping[str, str]) -> list[tuple[Case, str]]:
        """Harmless cases with their right replies: the data's, and else the model's own `replies`;
        a case that has neither is not there."""
        cases = self.world.train_cases("harmless")
        return [(c, told) for c in cases if (told := self.right(c) or replies.get(c.id))]

    def right(self, case: Case) -> str | None:
        """The reply that the data have for a harmless case."""
        return self._replies.get(case.id) or (case.answer and case.answer.split("\n")[0])


class RealStage:
    """The stage of `match.Match` for `--data.unsafe` and `--data.harmless`."""

    space = None  # a free text has no list of harmful replies
    proxies: Mapping[str, Judge] = {}

    def __init__(self, config: Config, *, told: Told | None = None) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()
        if config.model.defender is None:
            raise UserError(
                "model.defender: found none, expected a model's folder: real suites are for a real"
                " model (AutoModelForImageTextToText or AutoModelForCausalLM)"
            )
        if config.model.trust_remote_code:
            raise UserError("model.trust_remote_code: found true, which real suites do not allow")
        self.config = config
        self.folder = self._folder("defender", config.model.defender)
        self.processor = load_processor(
            self.folder, role="model.defender", max_pixels=config.model.max_pixels
        )
        if config.model.attacker is not None:
            other = self._folder("attacker", config.model.attacker)
            theirs = load_processor(other, role="model.attacker").tokenizer
            if theirs.get_vocab() != self.processor.tokenizer.get_vocab():
                raise UserError(
                    f"model.attacker {other}: found another vocabulary than the defender's,"
                    " expected the same: both share one codec"
                )
        spells = PlainText(self.processor.tokenizer).spells
        self.sees = self.processor.image_processor is not None
        blind = "" if self.sees else str(self.folder)
        built = build_world(config.data, seed=config.seed, told=told, spells=spells, blind=blind)
        tokens = ModelTokens.of(self.folder)
        self.codec = ChatCodec(self.processor, built.images, tokens=tokens, **kept_pictures(config))
        self.world, self.notes = self._fitting(built)
        self.measures = self.world.measures
        self.judged = judged_by(self.world.verdicts.id)
        self.chat_template = str(self.processor.chat_template)
        self._stores = built.images.stores
        if config.model.max_pixels is not None and self.sees:
            check_cap(config, self.codec.most_image_tokens())
        self._lessons = RealLessons(self.world)
        self.lessons: dict[str, Lesson] = {"coldstart-attacker": self._lessons.attacker}

    def _fitting(self, built: Built) -> tuple[SuiteWorld, tuple[str, ...]]:
        """(the world, its notes), without the cases whose several pictures leave no room for a
        reply. How many pictures a case has is the suite's choice, and no setting bounds it."""
        world, config = built.world, self.config
        most = room(config, config.defend) - config.defend.max_new_tokens
        trained = [*world.train_cases("unsafe"), *world.train_cases("harmless")]
        tested = [case for cases in world.suites().values() for case in cases]
        several = [c for c in (*trained, *world.harmless_probe(), *tested) if len(c.images) > 1]
        sizes = [(prompt.case_id, len(prompt.ids)) for prompt in self.codec.encode(several)]
        long = {name for name, size in sizes if size > most}
        if not long:
            return world, built.notes
        note = (
            f"{len(long)} of {len(sizes)} cases with several pictures are left out: they take more"
            f" than {most} tokens (defend.tokens_per_batch, engine.context_length)"
        )
        if config.model.max_pixels is None:
            note += "; model.max_pixels makes pictures smaller"
        return built.without(long), (*built.notes, note)

    def _folder(self, role: str, text: str) -> Path:
        path = Path(text)
        check_folder(path, role=f"model.{role}")
        return path

    def defender(self) -> Any:
        return self.load(self.folder)

    def attacker(self) -> Any:
        return self.load(Path(self.config.model.attacker or self.folder))

    def load(self, folder: Path) -> Any:
        return load_model(folder, dtype="float32")

    def save(
        self, model: Any, folder: Path, *, weights: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """The weights, and everything else as the defender's folder has it; it appears whole."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}.part")
        if part.exists():
            shutil.rmtree(part)
        self.describe(part)
        model.save_pretrained(part, state_dict=weights)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)

    def describe(self, folder: Path) -> None:
        """Everything that the defender's folder has but weights."""
        folder.mkdir(parents=True)
        if reading(self.folder):  # one file that holds all of it
            configuration(self.folder).save_pretrained(folder)
            self.processor.save_pretrained(folder)
            return
        for path in self.folder.iterdir():
            if path.is_file() and not path.name.endswith(WEIGHTS):
                shutil.copyfile(path, folder / path.name)
        if self.config.model.max_pixels is not None and self.sees:
            keep_size(self.processor.image_processor, folder)

    @property
    def needs_replies(self) -> bool:
        """See `protocols.Stage`; none are needed where no harmless data are shown."""
        cases = self.world.train_cases("harmless")
        shown = self.config.defend.harmless_share > 0
        return shown and any(self._lessons.right(case) is None for case in cases)

    def safe_lesson(self, pool: Sequence[Attack], replies: Mapping[str, str]) -> Lesson:
        """See `protocols.Stage`."""
        share = self.config.defend.harmless_share
        answered = self._lessons.answered(replies)
        return partial(self._lessons.safe, pool=pool, harmless_share=share, answered=answered)

    def refusal_lesson(self, replies: Mapping[str, str]) -> Lesson:
        """See `protocols.Stage`."""
        return partial(self._lessons.refusal, replies=replies)

    def versions(self) -> dict[str, str]:
        import torch
        import transformers

        import sectow_fast

        return {
            "sectow_fast": sectow_fast.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "judge": self.world.verdicts.id,
        }

    def rows(self) -> Iterator[DataRow]:
        """See `protocols.Stage`."""
        split = self.world.split
        parts = {"unsafe": split.unsafe, "harmless": split.harmless, "probe": split.probe}
        for part, cases in (*parts.items(), *(("test", cases) for cases in split.test.values())):
            for case in cases:
                store = self._stores[f"{'test' if part == 'test' else 'train'}:{case.suite}"]
                # Where its file lies is no part of a row.
                row = dataclasses.asdict(dataclasses.replace(case, where=""))
                files: list[Path] = []
                for key in case.images:
                    if isinstance(store, FileStore):
                        files.append(store.file(key))
                    else:
                        pixels = store.open(key).tobytes()
                        row[f"pixels of {key}"] = hashlib.sha256(pixels).hexdigest()
                words = json.dumps(row, sort_keys=True)
                yield DataRow(part=f"{part} {case.suite}", words=words, files=tuple(files))
