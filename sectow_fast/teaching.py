"""Phases in which a player is taught by examples: the cold starts, and the SFT baseline's defence.

They are called by tug.py, which says when.
"""

from __future__ import annotations

from sectow_fast.game.coldstart import own_replies, run_lessons
from sectow_fast.game.player import Player
from sectow_fast.game.schedule import sft_steps
from sectow_fast.match import Journal, Match
from sectow_fast.protocols import Lesson


def coldstart_caption(match: Match, journal: Journal, k: int) -> None:
    """Pictures to words: without it the pictures stay unread (sandbox; our choice)."""
    _teach_coldstart(match, journal, "coldstart-caption", match.config.coldstart.caption_steps)


def coldstart_defender(match: Match, journal: Journal, k: int) -> None:
    """The model to be secured: it refuses the direct request and falls for several styles."""
    _teach_coldstart(match, journal, "coldstart-defender", match.config.coldstart.defender_steps)


def coldstart_attacker(match: Match, journal: Journal, k: int) -> None:
    """The attacker learns to write what a self-instruct attacker writes."""
    if match.step == 0 and match.config.model.attacker is None:
        match.cast.fork_attacker()
    config = match.config.coldstart
    _teach(
        match,
        journal,
        match.stage.lessons["coldstart-attacker"],
        player=match.cast.attacker,
        k=k,
        name="coldstart-attacker",
        steps=config.attacker_steps,
        lr=config.attacker_lr,
        key=f"{match.config.seed}/coldstart-attacker",
    )


def coldstart_refusals(match: Match, journal: Journal, k: int) -> None:
    """A given defender learns to refuse, beside its own replies to harmless requests: GRPO learns
    nothing from one that never refuses."""
    config, cast = match.config, match.cast
    key = f"{config.seed}/coldstart-refusals"
    _draw_own_replies(match, key, wanted="coldstart.refusal_steps")
    _teach(
        match,
        journal,
        match.stage.refusal_lesson(match.own_replies),
        player=cast.defender,
        k=k,
        name="coldstart-refusals",
        steps=config.coldstart.refusal_steps,
        lr=config.coldstart.refusal_lr,
        key=key,
    )


def defend_by_sft(match: Match, journal: Journal, k: int) -> None:
    """The SFT baseline: as many sequences as GRPO would have rolled out, right replies to all."""
    config = match.config
    if match.stage.needs_replies:
        _draw_own_replies(match, f"{config.seed}/own-replies", wanted="defender sft")
    _teach(
        match,
        journal,
        match.stage.safe_lesson(match.pool, match.own_replies),
        player=match.cast.defender,
        k=k,
        name="defend",
        steps=sft_steps(config),
        lr=config.defend.sft_lr,
        key=f"{config.seed}/{k}/defend",
    )


def _draw_own_replies(match: Match, key: str, *, wanted: str) -> None:
    """The defender's own harmless replies, once in a run: before it learns to refuse."""
    config = match.config
    if not match.own_replies:
        match.own_replies = own_replies(
            match.stage.world,
            match.cast.defender,
            count=config.coldstart.own_replies,
            max_new_tokens=config.defend.max_new_tokens,
            seed=key,
            wanted=wanted,
        )


def _teach_coldstart(match: Match, journal: Journal, name: str, steps: int) -> None:
    _teach(
        match,
        journal,
        match.stage.lessons[name],
        player=match.cast.defender,
        k=0,
        name=name,
        steps=steps,
        lr=match.config.coldstart.lr,
        key=f"{match.config.seed}/0/{name}",
    )


def _teach(
    match: Match,
    journal: Journal,
    lesson: Lesson,
    *,
    player: Player,
    k: int,
    name: str,
    steps: int,
    lr: float,
    key: str,
) -> None:
    journal.phase(k, name, steps)
    with match.cast.pupil(player, lr=lr) as pupil:
        run_lessons(
            lesson,
            player=player,
            pupil=pupil,
            steps=steps,
            batch=match.config.coldstart.batch,
            lr=lr,
            key=key,
            round=k,
            phase=name,
            start=match.step,
            on_step=journal.on_step,
            skipped=match.skipped,
        )
