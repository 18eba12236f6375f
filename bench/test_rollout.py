"""SGLangEngine beside TorchEngine on the sandbox's model: rollout, weight sync, sleep, streaming.

Needs SGLang: `make bench-sglang` (on a CPU the environment of `make test-sglang`). G = 8; the model
is untrained and its end token banned, so all completions have the same number of tokens.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sectow_fast.config import Config, EngineConfig
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.sglang_kind import SGLangEngines
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.game.attempts import Attempts
from sectow_fast.game.player import Player
from sectow_fast.learn.phase import roll_out
from sectow_fast.types import Sampling

if importlib.util.find_spec("sglang") is None:
    pytest.skip("SGLang is not installed here: make bench-sglang", allow_module_level=True)

GROUP, TOKENS, TURNS = 8, 8, 7
SAMPLING = Sampling(max_new_tokens=TOKENS)


@pytest.fixture(scope="module")
def players(stage, tmp_path_factory) -> Iterator[dict[str, Player]]:
    """Attacker and defender with an engine each, started and warm."""
    banned = stage.codec.banned_ids
    stage.codec.banned_ids = tuple(sorted({*stage.codec.banned_ids, *stage.codec.end_ids}))
    engines = SGLangEngines(
        EngineSetup(
            config=Config(engine=EngineConfig(kind="sglang", roles="two")),
            codec=stage.codec,
            folder=tmp_path_factory.mktemp("engine"),
            write_folder=stage.describe,
        )
    )
    made = {}
    for name in ("attacker", "defender"):
        model = stage.defender()
        made[name] = Player(model=model, engine=engines.of(name, model), codec=stage.codec)
        made[name].engine.generate(
            stage.codec.encode(stage.world.train_cases("harmless")[:32]),
            n=GROUP,
            sampling=SAMPLING,
            seed="warm",
        )
    yield made
    engines.close()
    stage.codec.banned_ids = banned


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each side, taken in turn so that other work on the machine affects both
    alike."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TURNS):
        for name, work in sides.items():
            found[name].append(seconds(work))
    return {name: statistics.median(values) for name, values in found.items()}


def test_tokens_a_second(players, stage, keep):
    defender, rows = players["defender"], []
    torch_engine = TorchEngine(defender.model, stage.codec)
    for requests in (8, 64, 256):
        cases = stage.world.train_cases("harmless")[: requests // GROUP]
        prompts = stage.codec.encode(cases)

        def rollout(engine: Any, prompts: Any = prompts) -> list:
            return engine.generate(prompts, n=GROUP, sampling=SAMPLING, seed="bench")

        done = rollout(defender.engine)
        assert sum(len(one.ids) for group in done for one in group) == requests * TOKENS

        def cold(prompts: Any = prompts) -> None:
            defender.engine.server.process.call(
                "flush", timeout=60
            )  # as after every sync: no prefix is cached
            rollout(defender.engine, prompts)

        median = in_turn({"torch": lambda r=rollout: r(torch_engine), "sglang": cold})
        row = {"requests": requests}
        row |= {name: round(requests * TOKENS / value) for name, value in median.items()}
        rows.append(row)
        print(row)
    keep("cpu-rollout", rows, what="completion tokens per second, groups of 8, 8 tokens each")


def test_sync_sleep_and_wake(players, stage, keep, tmp_path):
    rows = []
    large = Config(model={"hidden_size": 1024, "layers": 6}, engine=EngineConfig(kind="sglang"))
    from sectow_fast.data.sandbox.stage import SandboxStage

    stages = {"default": None, "hidden 1024, 6 layers": SandboxStage(large)}
    for name, other in stages.items():
        engines, engine = None, players["defender"].engine
        if other is not None:
            model = other.defender()
            engines = SGLangEngines(
                EngineSetup(
                    config=large,
                    codec=other.codec,
                    folder=tmp_path,
                    write_folder=other.describe,
                )
            )
            engine = engines.of("defender", model)
        engine.wake()
        found: dict[str, list[float]] = {"sync": [], "sleep": [], "wake": []}
        for _ in range(TURNS):
            engine.sleep()
            engine.sync(engine.model)
            engine.wake()
            for what, values in found.items():
                values.append(engine.server.seconds[what])
        median = {what: statistics.median(values) for what, values in found.items()}
        size = engine.server.synced_bytes
        rows.append(
            {"model": name, "megabytes": round(size / 1e6, 1)}
            | {f"{what}_seconds": round(value, 4) for what, value in median.items()}
            | {"gigabytes_per_second": round(size / median["sync"] / 1e9, 2)}
        )
        print(rows[-1])
        if engines is not None:
            engines.close()
    keep("cpu-weight-sync", rows, what="one push of all weights into SGLang; sleep and wake around")


def test_streaming_against_a_barrier(players, stage, keep):
    """16 x 8 attacks of 8 tokens, each put to the defender for one reply of 8 tokens."""
    attacker, defender = players["attacker"], players["defender"]
    seeds = stage.world.seeds("train")[:16]
    prompts = stage.codec.encode(seeds)

    class TriesEach:
        """A scorer that puts every attack to the defender at once."""

        def __init__(self) -> None:
            self.attempts = Attempts(
                stage.world,
                defender,
                replies=1,
                sampling=SAMPLING,
                seed="bench",
                at_once=True,
            )

        def take(self, i, j, completion) -> None:
            self.attempts.put(i * GROUP + j, seeds[i])

    def stream() -> None:
        scorer = TriesEach()
        roll_out(attacker.engine, prompts, scorer, n=GROUP, sampling=SAMPLING, seed="bench")
        verdicts = scorer.attempts.finish()
        assert sum(len(row) for row in verdicts.values()) == 16 * GROUP

    def barrier() -> None:
        attacker.engine.generate(prompts, n=GROUP, sampling=SAMPLING, seed="bench")
        tried = [prompt for prompt in prompts for _ in range(GROUP)]
        defender.engine.generate(tried, n=1, sampling=SAMPLING, seed="bench")

    median = in_turn({"stream": stream, "barrier": barrier})
    row = {name: round(value, 3) for name, value in median.items()}
    print(row)
    keep("cpu-stream", [row], what="seconds: attacks written, and one reply to each")
