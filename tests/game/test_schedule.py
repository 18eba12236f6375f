"""What is played in which order, and what each ablation leaves out."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from scripted import ScriptedWorld, small

from sectow_fast.config import ABLATIONS, Config, DefendConfig, MonitorConfig
from sectow_fast.game.schedule import defend_config, schedule, sft_steps
from sectow_fast.plan import replies_beside

COLD = [(0, "coldstart-caption"), (0, "coldstart-defender"), (0, "coldstart-attacker")]


def one_round(k: int) -> list[tuple[int, str]]:
    return [(k, "attack"), (k, "harvest"), (k, "defend"), (k, "evaluate")]


def test_cold_start_then_k_rounds_of_attack_harvest_defend_evaluate():
    assert schedule(small(rounds=3)) == [
        *COLD,
        (0, "evaluate"),
        *one_round(1),
        *one_round(2),
        *one_round(3),
    ]
    assert schedule(small(rounds=0)) == [*COLD, (0, "evaluate")]


def test_a_given_defender_needs_no_cold_start_and_a_given_attacker_neither():
    defender = small(model__defender="x")
    assert schedule(defender)[:2] == [(0, "coldstart-attacker"), (0, "evaluate")]
    both = small(model__defender="x", model__attacker="y")
    assert schedule(both)[:2] == [(0, "evaluate"), (1, "attack")]


def test_a_given_defender_is_taught_refusals_after_the_attacker_was_forked_from_it():
    taught = dict(coldstart__refusal_steps=3, rounds=0)
    assert schedule(small(model__defender="x", **taught)) == [
        (0, "coldstart-attacker"), (0, "coldstart-refusals"), (0, "evaluate")
    ]  # fmt: skip
    assert schedule(small(**taught)) == [*COLD, (0, "evaluate")]


def test_a_given_attacker_is_taught_where_it_is_asked_for():
    both = dict(model__defender="x", model__attacker="y", rounds=0)
    assert schedule(small(**both)) == [(0, "evaluate")]
    asked = small(**both, coldstart__teach_attacker=True)
    assert schedule(asked) == [(0, "coldstart-attacker"), (0, "evaluate")]


def test_without_iteration_there_is_one_defence_as_long_as_all_and_nothing_new_is_written():
    config = small(rounds=3, ablate=("no-iteration",))
    assert schedule(config) == [*COLD[:2], (0, "evaluate"), (1, "defend"), (1, "evaluate")]
    assert defend_config(config).steps == 3 * config.defend.steps
    assert defend_config(config).prompts == config.defend.prompts
    assert defend_config(small(rounds=3)) == small().defend
    assert schedule(small(rounds=0, ablate=("no-iteration",))) == [*COLD[:2], (0, "evaluate")]


def test_without_cold_start_the_attacker_begins_untaught():
    config = small(rounds=1, ablate=("no-cold-start",))
    assert schedule(config) == [*COLD[:2], (0, "evaluate"), *one_round(1)]


def test_one_step_of_cold_start_is_one():
    assert (0, "coldstart-attacker") in schedule(small(coldstart__attacker_steps=1))
    assert (0, "coldstart-attacker") not in schedule(small(coldstart__attacker_steps=0))


def test_a_self_instruct_attacker_is_neither_taught_nor_trained():
    config = small(rounds=1, attacker="self-instruct")
    assert schedule(config) == [
        *COLD[:2], (0, "evaluate"), (1, "harvest"), (1, "defend"), (1, "evaluate")
    ]  # fmt: skip


def test_the_sft_baseline_sees_as_many_sequences_as_grpo_rolls_out():
    config = small(coldstart__batch=7)  # 3 steps x 6 prompts x 4 completions in batches of 7
    assert sft_steps(config) == 11
    longer = small(coldstart__batch=7, rounds=2, ablate=("no-iteration",))
    assert sft_steps(longer) == 21


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("no-iteration", lambda c: c.iterate),
        ("no-defender-monitor", lambda c: c.monitor.watch_defender),
        ("no-attacker-monitor", lambda c: c.monitor.watch_attacker),
        ("no-attacker-monitor", lambda c: c.attack.gates),
        ("no-attacker-monitor", lambda c: c.attack.diversity_weight),
        ("no-attacker-monitor", lambda c: c.harvest.filter),
        ("no-attacker-gates", lambda c: c.attack.gates),
        ("no-attacker-gates", lambda c: c.attack.diversity_weight),
        ("no-attacker-gates", lambda c: c.monitor.diversity_weight_raised),
        ("no-attacker-filter", lambda c: c.harvest.filter),
        ("no-attacker-controller", lambda c: c.monitor.watch_attacker),
        ("no-cold-start", lambda c: c.coldstart.attacker_steps),
        ("no-harmless", lambda c: c.defend.harmless_share),
        ("no-harmless", lambda c: c.monitor.harmless_share_raised),
    ],
)
def test_an_ablation_switches_its_setting_off_and_no_other(name, read):
    on, off = Config(), Config(ablate=(name,))
    assert read(on) and not read(off)
    changed = {
        (section, field)
        for section, values in off.model_dump().items()
        for field, value in (values.items() if isinstance(values, dict) else [("", values)])
        if value != (on.model_dump()[section][field] if field else on.model_dump()[section])
    }
    named = {tuple(key.split(".")) if "." in key else (key, "") for key in ABLATIONS[name]}
    # Two of the settings that end a collapse are off by default, and stay so.
    off_already = {("attack", "on_collapse"), ("attack", "entropy_min")} & named
    assert changed == (named - off_already) | {("ablate", "")}


def test_without_the_attackers_monitor_its_gates_filter_and_controller_are_gone():
    parts = ("no-attacker-gates", "no-attacker-filter", "no-attacker-controller")
    whole, piece_by_piece = Config(ablate=("no-attacker-monitor",)), Config(ablate=parts)
    assert whole == piece_by_piece.model_copy(update={"ablate": whole.ablate})
    for part in parts:
        assert Config(ablate=(part,)) not in (Config(), whole)


def test_an_ablation_puts_its_settings_in_place_and_is_the_same_read_again():
    config = Config.model_validate({"ablate": ["no-harmless"], "defend": {"steps": 7}})
    assert config.defend.harmless_share == 0 and config.defend.steps == 7
    assert Config.model_validate(config.model_dump()) == config
    assert Config(ablate=("no-harmless",), defend=Config().defend).defend.harmless_share == 0
    assert Config(ablate=("no-iteration",), iterate=False).iterate is False


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"ablate": ["no-harmless"], "defend": {"harmless_share": "0.3"}},
            "ablate no-harmless sets defend.harmless_share to 0.0: found defend.harmless_share 0.3"
            " beside it; leave one of the two out",
        ),
        (
            {"ablate": ["no-harmless", "no-iteration"], "iterate": True},
            "ablate no-iteration sets iterate to False: found iterate True",
        ),
        (
            {"ablate": ["no-attacker-monitor"], "attack": {"entropy_min": 0.1}},
            "ablate no-attacker-monitor sets attack.entropy_min to 0.0: found",
        ),
        (
            {"ablate": ["no-harmless"], "defend": DefendConfig(harmless_share=0.5)},
            "ablate no-harmless sets defend.harmless_share to 0.0: found",
        ),
        (
            {"attack": {"on_collapse": "roll-back"}, "monitor": {"watch_attacker": False}},
            "attack.on_collapse roll-back: found monitor.watch_attacker false",
        ),
        (
            {"query_budget": 3},
            "query_budget 3 is under harvest.replies 4",
        ),
        (
            {"query_budget": 170},
            "query_budget 170 x attack.query_share 0.75 is under the 128 replies",
        ),
        (
            {"query_budget": 255, "attack": {"query_share": 0.5}},
            "query_budget 255 x attack.query_share 0.5 is under the 128 replies",
        ),
        (
            {"query_budget": 128, "attack": {"query_share": 1.0}},
            "attack.query_share 1 of query_budget 128 leaves the harvest fewer than",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(values, words):
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(values)
    assert words in str(caught.value.errors()[0]["ctx"]["error"])


@pytest.mark.parametrize(
    "values",
    [
        {"query_budget": 171},  # 128 of 171 x 0.75
        {"query_budget": 256, "attack": {"query_share": 0.5}},
        {"query_budget": 4, "attacker": "self-instruct"},
        {"query_budget": 4, "iterate": False},
        {"query_budget": 4, "attack": {"steps": 0}},
        {"attack": {"on_collapse": "fresh-start"}},
        {"ablate": ["no-harmless"], "defend": {"harmless_share": "0"}},
        {"ablate": ["no-harmless"], "monitor": MonitorConfig(harmless_share_raised=0)},
    ],
)
def test_settings_that_only_look_like_a_contradiction_are_taken(values):
    config = Config.model_validate(values)
    assert config.query_budget is None or config.attack_queries <= config.query_budget


def test_the_attack_phase_may_use_a_share_of_the_budget():
    assert Config().attack_queries is None
    assert Config(query_budget=1001).attack_queries == 750
    assert Config(query_budget=1001, attack={"query_share": 0.5}).attack_queries == 500
    attack = Config(attack={"prompts": 3, "group_size": 5, "replies": 2}).attack
    assert attack.step_queries == 30


def test_the_dry_run_counts_what_is_asked_beside_the_steps():
    def beside(name, **more):
        return replies_beside(small(**more), ScriptedWorld(), name)

    looks = {"defend__steps": 7, "monitor__every": 3}
    assert beside("defend", **looks) == 2 * 10  # the probe's cases
    assert beside("defend", **looks, monitor__against="round-0") == 3 * 10
    assert beside("defend", **looks, rounds=2, ablate=("no-iteration",)) == 4 * 10
    assert beside("defend", **looks, defender="sft") == beside("attack") == 0
    assert beside("coldstart-refusals", coldstart__own_replies=9) == 9
    assert beside("harvest") == 8 * 3 + 5 * 10
