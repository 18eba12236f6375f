"""One judge for several ranks: who makes it, who asks it, and what the others are told."""

from __future__ import annotations

from asked import requests, verdicts

from sectow_fast.judges import Judgement, SharedJudge


class Script:
    """What the first rank made, in order, for a rank that is told it later."""

    def __init__(self):
        self.said = []

    def first(self, make):
        self.said.append(make())
        return self.said[-1]

    def other(self, make):
        return self.said.pop(0)


class Backwards:
    id = "backwards"

    def __init__(self):
        self.asked = []

    def judge(self, requests):
        self.asked.append(list(requests))
        for number in reversed(range(len(requests))):
            label = "unsafe" if requests[number].reply == "leak" else "safe"
            yield number, Judgement(label=label, refusal="none")


def test_the_first_rank_makes_and_asks_it_and_every_rank_has_its_verdicts():
    script, made = Script(), []

    def make():
        made.append(Backwards())
        return made[-1]

    first = SharedJudge(make, script.first)
    found = verdicts(first, "leak", "sorry", "leak")
    other = SharedJudge(make, script.other)
    assert first.id == other.id == "backwards"
    assert verdicts(other, "leak", "sorry", "leak") == found
    assert [verdict.label for verdict in found] == ["unsafe", "safe", "unsafe"]
    assert len(made) == 1 and made[0].asked == [requests("leak", "sorry", "leak")]
    assert script.said == []
