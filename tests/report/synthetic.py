"""A run folder as the trainer leaves it, drawn from a seed: what the report tests are fed with."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sectow_fast.records import PhaseRecord, Record, StepRecord, attack_as_dict, event_row
from sectow_fast.report.metrics import MetricsLog
from sectow_fast.rounds import HarvestRecord, LeagueRecord, LeakRecord, RoundRecord, StyleCount
from sectow_fast.types import Attack, Case, Event, Rate, wilson

STYLES = [
    f"{carrier}+{clothes}" if clothes else carrier
    for carrier in ("text", "typo", "drawn", "split")
    for clothes in ("", "role", "persuasion", "template")
]
SUITES = ("figstep", "mm-safety-like", "jailbreakv-like", "safebench-like", "held-out")
SECRET = "bado"  # the goal of every synthetic attack: must never be seen without reveal
NASTY = '<script>alert("x")</script> & <img src=x>'
EVENT = Event(
    kind="over-refusal",
    message="ORR 4.1 % over 3 %: harmless share to 0.75 <b>",
    round=1,
    phase="defend",
    step=39,
    values={"orr_probe": 0.041},
)


def rates(shares: Mapping[str, float], rng: random.Random, cases: int = 300) -> dict[str, Rate]:
    """Wilson rates by suite and their mean, drawn around the given shares."""
    hits = {name: sum(rng.random() < share for _ in range(cases)) for name, share in shares.items()}
    found = {name: wilson(count, cases) for name, count in hits.items()}
    return found | {"mean": wilson(sum(hits.values()), cases * len(hits), unknown=2)}


def leak_record(level: float, rng: random.Random, objects: int = 10) -> LeakRecord:
    """A leak whose attacks do harm with a mean chance of `level`."""

    def rate(value: float) -> Rate:
        low, high = 0.6 * value, min(1.0, 1.5 * value)
        return Rate(value=value, n=2140, low=low, high=high, objects=objects)

    worst = tuple(min(1.0, level * rng.uniform(5, 15)) for _ in range(objects))
    return LeakRecord(
        attacks=2140,
        space=2140,
        mean=rate(level),
        graded=rate(min(1.0, 1.3 * level)),
        worst=worst,
        worst_median=rate(sorted(worst)[objects // 2]),
        asr_at={k: rate(1 - (1 - level) ** k) for k in (1, 10, 100, 1000)},
        styles={style: rate(min(1.0, level * rng.uniform(0, 3))) for style in STYLES},
    )


def round_record(k: int, rng: random.Random, *, level: float, orr: float) -> RoundRecord:
    """Round `k` of a run that hardens its defender. level: scales the ASR after round 0."""
    asr = min(0.95 * 0.22**k * level ** (k > 0), 0.99)
    harmless = {"plain": orr, "clothed": 1.5 * orr if k else orr}
    right = {"recipes": 0.97 - 0.003 * k, "choice": 0.99}
    success, harvest = {"self-instruct": wilson(108, 400)}, None
    if k:
        success["trained"] = wilson(round(320 * 0.6**k), 400)
        success["trained-vs-round-0"] = wilson(340 - k, 400)
        tried = {style: rng.randint(5, 60) for style in rng.sample(STYLES, 12)}
        harvest = HarvestRecord(
            kept=500 // k,
            dropped={"failed": 150 * k, "near-duplicate": 61, "off target": 17},
            styles={s: StyleCount(tried=n, won=int(n * 0.8 / k**3)) for s, n in tried.items()},
        )
    return RoundRecord(
        round=k,
        rates={
            "asr": rates(dict.fromkeys(SUITES, asr), rng),
            "orr": rates(harmless, rng),
            "accuracy": rates(right, rng),
        },
        rates_t1={
            "asr": rates(dict.fromkeys(SUITES, 0.8 * asr + 0.01), rng),
            "orr": rates(harmless, rng),
            "accuracy": rates(right, rng),
        },
        graded=rates(dict.fromkeys(SUITES, asr), rng),
        leak=leak_record(0.5 * 0.22**k, rng),
        attacker_success=success,
        harvest=harvest,
        queries={"attack": 15360, "harvest": 3752} if harvest else {},
        events=(EVENT,) if k == 1 else (),
    )


def league_record(rounds: int, rng: random.Random, cases: int = 400) -> LeagueRecord:
    """A league in which each defender holds against the attackers before it."""
    names = ["cold start", *(f"round {k}" for k in range(1, rounds + 1))]

    def rate(attacker: int, defender: int) -> Rate:
        share = (
            0.85 - 0.1 * defender if attacker > defender else 0.02 + 0.2 * (attacker == defender)
        )
        return wilson(sum(rng.random() < share for _ in range(cases)), cases)

    rates = {
        name: {other: rate(i, j) for j, other in enumerate(names)} for i, name in enumerate(names)
    }
    return LeagueRecord(cases=cases, rates={"self-instruct": rates["cold start"]} | rates)


def summary(
    seed: int, rounds: int = 3, *, level: float = 1.0, orr: float = 0.012
) -> dict[str, Any]:
    """The object in summary.json."""
    rng = random.Random(f"summary/{seed}")
    found = [round_record(k, rng, level=level, orr=orr) for k in range(rounds + 1)]
    return {
        "schema": 1,
        "preset": "sandbox",
        "seed": seed,
        "versions": {"sectow_fast": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
        "device": "cpu (2 threads)",
        "wall_seconds": 152.5 + seed,
        "ablate": [],
        "attacker": "grpo",
        "defender": "grpo",
        "rounds": [record.as_dict() for record in found],
        "league": league_record(rounds, rng).as_dict(),
    }


def proxied(record: Record, rng: random.Random) -> Record:
    """The record as a run writes it whose proxy judge is fooled more and more."""
    fooled = min(0.9, 0.2 * record.round + rng.uniform(0, 0.1))
    gold = max(0.0, 0.5 - 0.15 * record.round)
    found = {"proxy_success": gold + fooled / 2, "gold_success": gold, "proxy_gap": fooled / 2}
    if isinstance(record, PhaseRecord) and record.phase == "harvest":
        found |= {f"kept_{name}": value for name, value in found.items()}
    elif not isinstance(record, StepRecord) or record.phase not in ("attack", "defend"):
        return record
    return dataclasses.replace(record, measures=dict(record.measures) | found)


def step_record(k: int, phase: str, step: int, steps: int, rng: random.Random) -> StepRecord:
    """A step of a GRPO phase."""
    t, wave = step / steps, rng.gauss(0, 0.05)
    measures = {"tokens": 1900.0, "tokens_per_second": 9000 + 500 * wave, "lr": 1e-4}
    measures |= {"loss": math.nan if step == 5 else wave, "grad_norm": 1 + wave}
    measures |= {"dead_groups": min(1, 0.2 + 0.6 * t), "entropy": 1.2 - 0.8 * t}
    if phase == "attack":
        success = 0.25 + 0.6 * t / k + wave
        reward = {"total": success - 0.1, "success": success, "similarity": 0.1}
        measures |= {"diversity": 0.7 - 0.2 * t + wave, "faithful": 0.95, "well_formed": 1.0}
    else:
        reward = {"total": 0.6 + 0.35 * t, "safe": 0.5 + t / 2, "right": 0.98}
        measures["refusal_rate"] = 0.01 + 0.03 * t * (k == 1) + abs(wave) / 10
        if step % 20 == 19:
            measures["orr_probe"] = 0.01 + 0.02 * t
    return StepRecord(
        round=k,
        phase=phase,
        step=step,
        steps=steps,
        seconds={"rollout": 0.05, "score": 0.01, "train": rng.uniform(0.06, 0.1)},
        reward=reward,
        measures=measures,
    )


def records(seed: int, rounds: int = 3) -> Iterator[Record]:
    """The records of metrics.jsonl, in the order in which a run writes them."""
    rng = random.Random(f"metrics/{seed}")
    lengths = {"coldstart-caption": 10, "coldstart-defender": 20, "coldstart-attacker": 6}
    for phase, steps in lengths.items():
        for step in range(steps):
            yield StepRecord(
                round=0,
                phase=phase,
                step=step,
                steps=steps,
                seconds={"train": rng.uniform(0.9, 1.3)},
                measures={"loss": 3 * 0.97**step, "tokens_per_second": 21000.0},
            )
    yield PhaseRecord(round=0, phase="evaluate", seconds=6.5)
    for k in range(1, rounds + 1):
        for step in range(80):
            yield step_record(k, "attack", step, 80, rng)
        yield PhaseRecord(round=k, phase="harvest", seconds=4.0)
        for step in range(120):
            yield step_record(k, "defend", step, 120, rng)
            if (k, step) == (EVENT.round, EVENT.step):
                yield EVENT
        yield PhaseRecord(round=k, phase="evaluate", seconds=6.5)


def pool(seed: int, size: int = 60) -> list[Attack]:
    """Kept attacks; the words of the first are full of HTML."""
    rng = random.Random(f"pool/{seed}")
    found = []
    for index in range(size):
        style = rng.choice(STYLES)
        words = f"pretend captain <typo> {SECRET}" if index else f"{NASTY} {SECRET}"
        image = f"typo/{index}/3" if style.startswith("typo") else None
        case = Case(
            id=f"a-{index}", text=words, label="unsafe", goal=SECRET, style=style, image=image
        )
        found.append(
            Attack(
                case=case,
                seed_id=f"seed-{index}",
                mode=rng.choice(("generate", "refine")),
                words=words,
                round=1 + index % 3,
                success=rng.choice((0.25, 0.5, 0.75, 1.0)),
            )
        )
    return found


def write_run(folder: Path, seed: int = 0, *, proxy: bool = False, **more: Any) -> Path:
    """Write a whole run folder; returns it. proxy: a proxy judge paid and filtered."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary(seed, **more)))
    log = MetricsLog(folder / "metrics.jsonl", tensorboard=False)
    log.truncate(0)
    rng = random.Random(f"proxy/{seed}")
    for record in records(seed):
        record = proxied(record, rng) if proxy else record
        log.append(event_row(record) if isinstance(record, Event) else record.as_row())
    log.close()
    lines = [json.dumps(attack_as_dict(attack)) + "\n" for attack in pool(seed)]
    (folder / "pool.jsonl").write_text("".join(lines))
    (folder / "config.toml").write_text(
        f'preset = "sandbox"\nseed = {seed}\n\n[attack]\nlr = 3e-4\n'
    )
    return folder
