"""SmolLM2-135M's real weights on one core: rollout beside transformers, an update beside TRL.

`pytest bench/test_smol.py --record bench/results`, about a quarter of an hour on an idle core and
6 GiB. The weights are those of `make smol`, which are fetched where they are not there. Wanted are
1.5 times transformers' tokens per second (64 requests, 8 to a prompt) and 3 times TRL's (G = 8);
the rows say what was measured. Ends are banned, so all completions have one length; real ones
differ, and what has ended leaves our batch.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402
from scene import Scene  # noqa: E402
from test_training_step import fresh  # noqa: E402
from training_contenders import Update, same  # noqa: E402
from training_runs import peak_mib, trl_update  # noqa: E402

from sectow_fast.data.codec import ChatCodec  # noqa: E402
from sectow_fast.data.processor import load_model, load_processor  # noqa: E402
from sectow_fast.engine.torch_engine import TorchEngine  # noqa: E402
from sectow_fast.smol.weights import cache_folder, smol_model  # noqa: E402
from sectow_fast.types import Case, Sampling  # noqa: E402

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
]
PLAIN = (1000, 40_000)  # ids of plain words and their parts
ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class SmolScene(Scene):
    """A scene of the model in `folder`; each prompt is as many plain words as fill its tokens."""

    folder: Path
    strings = True  # its chat template takes no parts

    def codec(self, images: Any) -> ChatCodec:
        codec = ChatCodec(load_processor(self.folder), images)
        codec.banned_ids = (*codec.banned_ids, *codec.end_ids) if self.drawn else ()
        return codec

    @cached_property
    def cases(self) -> list[Case]:
        rng, codec = np.random.default_rng(0), self.codec(None)

        def case(number: int, words: int) -> Case:
            return Case(id=str(number), text=" ".join(said[:words]), label="harmless")

        made = []
        for number in range(self.prompts):
            said = rng.choice(WORDS, self.prompt).tolist()
            (bare,) = codec.encode([case(number, 1)])
            made.append(case(number, 1 + self.prompt - len(bare.ids)))
        if {len(one.ids) for one in codec.encode(made)} != {self.prompt}:
            raise AssertionError("a word is more than one token")
        return made

    @property
    def processor(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, padding_side="left")

    def model(self) -> Any:
        return load_model(self.folder, dtype="float32")

    def random_ids(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(1).integers(*PLAIN, shape)


@pytest.fixture(scope="module")
def folder() -> Path:
    torch.set_num_threads(1)
    return smol_model(cache_folder())


def in_turn(sides: dict[str, Callable[[], Any]], clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each side over `ROUNDS`, taken in turn, after one round that warms up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS + 1):
        for name, work in sides.items():
            begin = clock()
            work()
            found[name].append(clock() - begin)
    return {name: statistics.median(one[1:]) for name, one in found.items()}


def rollouts(scene: SmolScene) -> dict[str, float]:
    """Seconds of `completions` replies of one length, ours and transformers' `generate`."""
    model, codec, size = scene.model(), scene.codec(None), scene.group_size
    prompts = codec.encode(scene.cases)
    engine = TorchEngine(model, codec)
    ids = torch.tensor([prompt.ids for prompt in prompts])
    sampling = Sampling(temperature=1.0, max_new_tokens=scene.completion)

    def ours() -> None:
        done = engine.generate(prompts, n=size, sampling=sampling, seed="bench")
        assert {len(one.ids) for group in done for one in group} == {scene.completion}

    @torch.inference_mode()
    def theirs() -> None:
        done = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            num_return_sequences=size,
            max_new_tokens=scene.completion,
            suppress_tokens=list(codec.banned_ids),
            pad_token_id=codec.pad_id,
        )
        assert done.shape == (scene.completions, scene.prompt + scene.completion)

    model.eval()
    return in_turn({"ours": ours, "transformers": theirs}, scene.clock)


def updates(scene: SmolScene) -> dict[str, float]:
    """Seconds of an update, ours and TRL's in turn; both make the same one, which is checked."""
    ours, seconds = Update(scene, "shared"), {"ours": [], "trl": []}

    def hand_over(theirs: dict[str, float]) -> None:
        begin, first = scene.clock(), not seconds["ours"]
        ours(keep=first)
        seconds["ours"].append(scene.clock() - begin)
        seconds["trl"].append(theirs["train"])

    with TemporaryDirectory() as place:
        trainer, between = trl_update(scene, hand_over, place, ROUNDS + 1)
        trainer.train()
    same(ours.gradients, between.gradients, "ours")
    return {name: statistics.median(one[1:]) for name, one in seconds.items()}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return {}


def told(scene: SmolScene, seconds: dict[str, float], wanted: float) -> dict[str, Any]:
    ours, other = seconds.values()
    return {
        "group_size": scene.group_size,
        "prompt": scene.prompt,
        "completion": scene.completion,
        "prompts": scene.prompts,
        "tokens_per_second": {name: round(scene.tokens / s, 1) for name, s in seconds.items()},
        "faster": round(other / ours, 2),
        "wanted": wanted,
    }


@pytest.mark.parametrize("prompt", [64, 256])
def test_rollout(found, folder, prompt):
    scene = SmolScene(
        kind="smol", folder=folder, drawn=True, tokens_per_batch=4096,
        group_size=8, prompt=prompt, completion=32, prompts=8,
    )  # fmt: skip
    found.setdefault("rollout", []).append(told(scene, rollouts(scene), 1.5))
    print(found["rollout"][-1])


def update_scene(folder: Path) -> SmolScene:
    return SmolScene(
        kind="smol", folder=folder, tokens_per_batch=2048,
        group_size=8, prompt=256, completion=32, prompts=2,
    )  # fmt: skip


def test_update(found, folder):
    scene = update_scene(folder)
    found["update"] = told(scene, updates(scene), 3.0)
    print(found["update"])


def test_memory(found, folder):
    scene = update_scene(folder)
    names = {"ours": "shared", "unshared": "unshared", "trl": "trl"}
    found["memory_mib"] = {key: fresh(peak_mib, scene, name) for key, name in names.items()}
    print(found["memory_mib"])


def test_write(found, keep):
    """Runs last: writes what was measured where --record says."""
    assert found.keys() == {"rollout", "update", "memory_mib"}
    keep("cpu-smol", [found], what="SmolLM2-135M, float32: completion tokens per second, MiB")
