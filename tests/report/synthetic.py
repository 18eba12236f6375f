"""A run folder as a real run leaves it, drawn from a seed: what the report tests are fed with."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from sectow_fast.types import wilson

STYLES = [
    f"{carrier}+{clothes}" if clothes else carrier
    for carrier in ("text", "typo", "drawn", "split")
    for clothes in ("", "role", "persuasion", "template")
]
SUITES = ("figstep", "mm-safety-like", "jailbreakv-like", "safebench-like", "held-out")
SECRET = "bado"  # the goal of every synthetic attack: must never be seen without reveal
NASTY = '<script>alert("x")</script> & <img src=x>'


def rates(hits: dict[str, float], n: int, rng: random.Random) -> dict[str, Any]:
    """Wilson rates by suite and their mean, drawn around the given shares."""
    found: dict[str, Any] = {}
    total = 0
    for name, share in hits.items():
        count = sum(rng.random() < share for _ in range(n))
        total += count
        found[name] = wilson(count, n).as_dict()
    found["mean"] = wilson(total, n * len(hits)).as_dict()
    return found


def summary(seed: int, rounds: int = 3, **more: Any) -> dict[str, Any]:
    """A summary.json whose defender is hardened round by round. `level` scales the final ASR."""
    rng = random.Random(f"summary/{seed}")
    level, orr = more.pop("level", 1.0), more.pop("orr", 0.012)
    found = []
    for k in range(rounds + 1):
        asr = 0.95 * 0.22**k * level ** (k > 0)
        item: dict[str, Any] = {
            "round": k,
            "asr": rates({name: min(asr, 0.99) for name in SUITES}, 300, rng),
            "asr_t1": rates({name: 0.8 * asr + 0.01 for name in SUITES}, 300, rng),
            "orr": rates({"plain": orr, "clothed": 1.5 * orr if k else orr}, 300, rng),
            "accuracy": rates({"recipes": 0.97 - 0.003 * k, "choice": 0.99}, 300, rng),
            "attacker_success": {"self-instruct": wilson(108 if not k else 20, 400).as_dict()},
            "events": [],
        }
        if k:
            item["attacker_success"]["trained"] = wilson(round(320 * 0.6**k), 400).as_dict()
            item["attacker_success"]["trained-vs-round-0"] = wilson(340 - k, 400).as_dict()
            item |= {"kept": 500 // k, "dropped": {"failed": 150 * k, "near-duplicate": 61}}
            item["dropped"]["drifted"] = 17
            item["styles"] = {
                style: {"tried": (tried := rng.randint(5, 60)), "won": int(tried * 0.8 / k**3)}
                for style in rng.sample(STYLES, 12)
            }
        found.append(item)
    return {
        "schema": 1,
        "preset": "sandbox",
        "seed": seed,
        "versions": {"python": "3.11.2", "torch": "2.13.0", "sectow_fast": "0.1.0"},
        "device": "cpu (2 threads)",
        "wall_seconds": 402.5 + seed,
        "ablate": [],
        "attacker": "grpo",
        "defender": "grpo",
        "rounds": found,
    } | more


def metrics(seed: int, rounds: int = 3) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl of all phases."""
    rng = random.Random(f"metrics/{seed}")
    rows: list[dict[str, Any]] = []
    lengths = {"coldstart-caption": 50, "coldstart-defender": 100, "coldstart-attacker": 30}
    for phase, steps in lengths.items():
        for step in range(steps):
            seconds = {"train": rng.uniform(0.9, 1.3)}
            rows.append({"round": 0, "phase": phase, "step": step + 1, "steps": steps})
            rows[-1] |= {"seconds": seconds, "loss": 3 * 0.97**step, "tokens_per_second": 21000.0}
    for k in range(1, rounds + 1):
        for phase, steps in (("attack", 80), ("defend", 120)):
            for step in range(steps):
                t = step / steps
                wave = rng.gauss(0, 0.05)
                row: dict[str, Any] = {"round": k, "phase": phase, "step": step + 1, "steps": steps}
                row["seconds"] = {"rollout": 0.05, "score": 0.01, "train": rng.uniform(0.06, 0.1)}
                row |= {"tokens": 1900, "tokens_per_second": 9000 + 500 * wave, "lr": 1e-4}
                row |= {"dead_groups": min(1, 0.2 + 0.6 * t), "entropy": 1.2 - 0.8 * t}
                if phase == "attack":
                    success = 0.25 + 0.6 * t / k + wave
                    row["reward"] = {"total": success - 0.1, "success": success, "similarity": 0.1}
                    row |= {"diversity": 0.7 - 0.2 * t + wave, "faithful": 0.95, "well_formed": 1.0}
                else:
                    row["reward"] = {"total": 0.6 + 0.35 * t, "safe": 0.5 + t / 2, "right": 0.98}
                    row["refusal_rate"] = 0.01 + 0.03 * t * (k == 1) + abs(wave) / 10
                    if step % 20 == 19:
                        row["orr_probe"] = 0.01 + 0.02 * t
                rows.append(row)
            if phase == "attack":
                rows.append({"round": k, "phase": "harvest", "kept": 500 // k})
                rows[-1] |= {
                    "dropped": {"failed": 150 * k},
                    "seconds": {"rollout": 4.0, "score": 1},
                }
        rows.append({"round": k, "phase": "evaluate", "seconds": {"rollout": 6.5}})
    event = {"kind": "over-refusal", "message": "ORR 4.1 % over 3 %: harmless share to 0.75"}
    event |= {"round": 1, "phase": "defend", "step": 40, "values": {"orr": 0.041}}
    rows.insert(len(rows) // 2, {"event": event})
    rows[5]["grad_norm"] = math.nan
    return rows


def pool(seed: int, size: int = 60) -> list[dict[str, Any]]:
    """Kept attacks; the first of them is full of HTML."""
    rng = random.Random(f"pool/{seed}")
    rows = []
    for index in range(size):
        style = rng.choice(STYLES)
        rows.append(
            {
                "round": 1 + index % 3,
                "mode": rng.choice(("generate", "refine")),
                "style": style,
                "words": f"pretend captain <typo> {SECRET}" if index else f"{NASTY} {SECRET}",
                "goal": SECRET,
                "seed_id": f"seed-{index}",
                "success": rng.choice((0.25, 0.5, 0.75, 1.0)),
                "image": f"typo/{index}/3" if style.startswith("typo") else None,
            }
        )
    return rows


def write_run(folder: Path, seed: int = 0, **more: Any) -> Path:
    """Write a whole run folder; returns it."""
    from sectow_fast.report.metrics import MetricsLog

    folder.mkdir(parents=True, exist_ok=True)
    found = summary(seed, **more)
    (folder / "summary.json").write_text(json.dumps(found))
    with MetricsLog(folder / "metrics.jsonl", tensorboard=False) as log:
        for row in metrics(seed):
            log.append(row)
    with MetricsLog(folder / "pool.jsonl", tensorboard=False) as log:
        for row in pool(seed):
            log.append(row)
    (folder / "config.toml").write_text(
        f'preset = "sandbox"\nseed = {seed}\n\n[attack]\nlr = 3e-4\n'
    )
    return folder
