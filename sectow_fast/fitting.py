"""Players that fit their card: what a probe finds there has the last word on rows, offload, cache.

The engines start on the empty card with the cache of the plan and sleep, the trainer loads, and a
row of the longest length is run (learn/probe.py). It is done once in a run: what was found and
chosen stands in `memory.json`, from which a resumed run reads it.
"""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from sectow_fast.config import Config
from sectow_fast.engine.registry import engine_kind
from sectow_fast.engine.sglang_settings import CONTEXT, cache_token_bytes
from sectow_fast.learn.memory import CACHE_TOKENS_MIN, GIB, heaviest, model_config
from sectow_fast.learn.placement import give_back, training_device
from sectow_fast.learn.probe import CardGauge, Choice, Found, Gauge, Wanted, decide, measure
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.players import Players
from sectow_fast.protocols import Stage
from sectow_fast.run_folder import write_whole
from sectow_fast.types import UserError

NAME = "memory.json"


def card_of(config: Config) -> Gauge | None:
    """The card that a run shares with its engines; None where there is none to measure."""
    device = training_device(config.learn.device)
    shared = config.model.defender is not None and engine_kind(config).needs_plan(config)
    return CardGauge(device) if device.type == "cuda" and shared else None


def fitted(
    config: Config,
    asked: Config,
    stage: Stage,
    *,
    folder: Path,
    ranks: Ranks = ALONE,
    say: Callable[[str], None],
    card: Callable[[Config], Gauge | None] = card_of,
) -> tuple[Config, Players]:
    """The configuration with what fits this card, and its players. All ranks must call this.

    asked: the configuration before a plan settled `auto`. say: takes a line for people. UserError
    where nothing fits, or where `memory.json` cannot be read.
    """
    path, drawn = folder / NAME, torch.get_rng_state()

    def made(config: Config) -> Players:
        """On a card with nothing of ours. Adapters are drawn as where nothing is measured."""
        gc.collect()
        give_back(training_device(config.learn.device))
        torch.set_rng_state(drawn)
        return Players(config, stage, folder=folder, ranks=ranks)

    gauge = card(config)
    if gauge is None:
        return config, made(config)
    kept = ranks.told(lambda: read(path))
    if kept is not None:
        config = applied(config, kept)
        return config, made(config)
    given, wanted = config, wanted_of(config, asked)
    players = made(config)
    found, choice = probed(players, gauge, wanted)
    if choice.offload != found.offload:  # weights move once, and what fits is measured there
        config = applied(given, choice)
        wanted = dataclasses.replace(wanted, offload=(choice.offload,), cache=choice.cache)
        players.close()
        del players
        players = made(config)
        found, choice = probed(players, gauge, wanted)
    if ranks.first:
        row = {"card": players.device_name, "found": asdict(found), "choice": asdict(choice)}
        write_whole(path, json.dumps(row, indent=1) + "\n")
    say(said(found, choice))
    chosen = applied(given, choice)
    if chosen != config:
        players.close()
        del players
        players = made(chosen)
    return chosen, players


def wanted_of(config: Config, asked: Config) -> Wanted:
    """What the settings ask of the card; what was left to `auto` is free."""
    engine, heavy = config.engine, heaviest(config)
    context = engine.context_length or CONTEXT
    text = model_config(str(config.model.defender)).get_text_config().to_dict()
    engines = 1 if engine.roles == "swap" else 2
    cache = engine.kv_tokens or CACHE_TOKENS_MIN * context
    fixed = asked.engine.kv_tokens
    return Wanted(
        rows=heavy.tokens_per_batch,
        offload=(False, True) if asked.learn.offload == "auto" else (config.learn.offload == "on",),
        cache=cache,
        cache_least=fixed or min(cache, CACHE_TOKENS_MIN * context),
        cache_most=fixed or max(cache, engine.max_running * context),
        cache_bytes=engines * cache_token_bytes(text, engine),
    )


def applied(config: Config, choice: Choice) -> Config:
    """`config` with what was chosen."""
    rows = {
        name: getattr(config, name).model_copy(
            update={"tokens_per_batch": min(getattr(config, name).tokens_per_batch, choice.rows)}
        )
        for name in ("coldstart", "attack", "defend")
    }
    learn = config.learn.model_copy(update={"offload": "on" if choice.offload else "off"})
    engine = config.engine.model_copy(update={"kv_tokens": choice.cache})
    return config.model_copy(update=rows | {"learn": learn, "engine": engine})


def read(path: Path) -> Choice | None:
    """What an earlier start of the run chose; None where it did not come to that."""
    if not path.exists():
        return None
    try:
        given = json.loads(path.read_text())["choice"]
        choice = Choice(**given)
        if [type(value) for value in given.values()] != [bool, int, int]:
            raise ValueError(f"found {given}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: found no choice of memory ({type(error).__name__}: {error}), expected what a"
            " run writes; remove the file, and the card is measured anew"
        ) from None
    return choice


def said(found: Found, choice: Choice) -> str:
    """What was found and chosen, in a line."""
    where = "in host memory" if choice.offload else "on the GPU"
    return (
        f"memory: a row of {found.tokens:,} tokens took {found.row / GIB:.2f} GiB and each further"
        f" token {found.slope / 2**20:.2f} MiB, with {found.asleep / GIB:.2f} GiB free; chosen:"
        f" rows of {choice.rows:,} tokens, weights and optimizer {where}, a cache of"
        f" {choice.cache:,} tokens ({NAME})"
    )


def probed(players: Players, gauge: Gauge, wanted: Wanted) -> tuple[Found, Choice]:
    """What the players' card has room for; they are closed where nothing fits."""
    config, cast = players.config, (players.defender, players.attacker)
    try:
        found = measure(
            [player.policy for player in cast],
            [player.engine for player in cast],
            heaviest(config),
            context=config.engine.context_length or CONTEXT,
            gauge=gauge,
        ).tightest(players.ranks)
        return found, decide(found, wanted)
    except BaseException:
        players.close()
        raise
