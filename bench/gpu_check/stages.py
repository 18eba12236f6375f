"""The stages in the order in which they run. Their limits add up to at most 25 minutes."""

from __future__ import annotations

from bench.gpu_check import (
    stage_ceilings,
    stage_correct,
    stage_engine,
    stage_kernels,
    stage_names,
    stage_round,
    stage_rows,
    stage_trl,
)
from bench.gpu_check.check import Stage

TIMES = ("seconds", "extra_mib")
STAGES = (
    Stage(
        name="names",
        what="what the package uses is there",
        limit=40,
        run=stage_names.run,
        columns=("count", "missing"),
    ),
    Stage(
        name="correct",
        what="the kernels on the card, against float64",
        limit=320,
        run=stage_correct.run,
        columns=("passed", "failed", "skipped"),
    ),
    Stage(
        name="ceilings",
        what="what the card can do at most",
        limit=40,
        run=stage_ceilings.run,
        columns=("tb_per_s", "tflop_per_s"),
    ),
    Stage(
        name="kernels",
        what="the policy loss beside its peers and its floor",
        limit=320,
        run=stage_kernels.run,
        columns=("shape", "dead half", *TIMES, "of floor", "cosine", "tb_per_s"),
    ),
    Stage(
        name="rows",
        what="an update by layout of rows and attention",
        limit=220,
        run=stage_rows.run,
        columns=("group", *TIMES, "tokens/s", "gradient gap", "worst parameter"),
    ),
    Stage(
        name="engine",
        what="an engine beside the trainer",
        limit=240,
        run=stage_engine.run,
        columns=("seconds", "tokens/s", "gb_per_s", "gib", "growth_mib", "mean", "p99", "kl"),
    ),
    Stage(
        name="round",
        what="one round of the 3B shape",
        limit=240,
        run=stage_round.run,
        columns=("steps", "trained", "rollout_s", "train_s", "tokens/s", "mfu", "mismatch_kl"),
    ),
    Stage(
        name="trl",
        what="the same update in TRL",
        limit=80,
        run=stage_trl.run,
        columns=(*TIMES, "tokens/s"),
    ),
)
BY_NAME = {stage.name: stage for stage in STAGES}
