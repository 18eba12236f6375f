"""A match of scripted players: a defender that learns, an attacker that writes alike."""

from __future__ import annotations

from scripted import OneWeight, ScriptedEngine, small
from scripted_match import MemoryJournal, ScriptedCast, ScriptedStage

from sectow_fast.game.player import Player
from sectow_fast.match import Match
from sectow_fast.tug import play


class Learnt:
    """A defender that falls for "win" until it has been trained: its weight is its experience."""

    def __init__(self, model, hardened=4):
        self.model, self.hardened = model, hardened

    def __call__(self, text, number, j):
        words = text.split()
        if words[0] == "question":
            return "fine"
        hardened = self.model.weight.item() >= self.hardened
        return "sorry" if hardened or words[0] not in ("win", "typo") else f"leak {words[1]}"


def writes(text, number, j):
    return f"{('win', 'weak', 'poor', 'other')[(number + j) % 4]} {text.split()[-1]}"


def match_of(**settings):
    stage = ScriptedStage()
    players = {}
    for name in ("attacker", "defender", "frozen"):
        model = OneWeight()
        reply = writes if name == "attacker" else Learnt(model)
        engine = ScriptedEngine(model, stage.codec, reply)
        players[name] = Player(model=model, engine=engine, codec=stage.codec)
    cast = ScriptedCast(**players)
    match = Match(config=small(**settings), stage=stage, cast=cast)
    return match, MemoryJournal(match)


def played(**settings):
    match, journal = match_of(**settings)
    play(match, journal)
    return match, journal
