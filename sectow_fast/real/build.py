"""From `--data.*` to a world: open suites, check licences, split by prompt, drop contamination."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from sectow_fast.config import DataConfig
from sectow_fast.data.images import ImageStore, StoresByName
from sectow_fast.data.suites import OpenSuite, SuiteCase, SuiteSpec, open_suite
from sectow_fast.data.suites.in_words import refuse_pictures
from sectow_fast.data.suites.registry import sampled
from sectow_fast.data.suites.wording import Wording
from sectow_fast.judges import JudgeSettings, SharedJudge, Told, make_judge
from sectow_fast.judges.people import RULE, by_rule, people_words
from sectow_fast.real.attacks import DrawnWords, WordsUnder
from sectow_fast.real.contamination import find_contamination
from sectow_fast.real.holdout import hold_out
from sectow_fast.real.world import DRAWN, UNDER, Split, SuiteWorld, spells_none
from sectow_fast.types import JudgedBy, UserError

PROBE = 110  # cases of the over-refusal probe: whole families of 100 or more
PROBE_LEAST = 50  # one refusal of 50 is 2 %


@dataclass(frozen=True, kw_only=True)
class Built:
    """notes: what was left out and why, one line each, for console and log."""

    world: SuiteWorld
    images: StoresByName
    notes: tuple[str, ...]

    def without(self, ids: Set[str]) -> SuiteWorld:
        """The world, less the cases of these ids."""
        made = self.world
        return SuiteWorld(
            made.split.without(ids),
            judge=made.verdicts,
            wording=made.wording,
            config=made.config,
            spells=made.spells,
            draws=made.draws,
        )


def build_world(
    config: DataConfig,
    *,
    seed: int,
    told: Told | None = None,
    spells: Callable[[str], str | None] = spells_none,
    blind: str = "",
) -> Built:
    """Read and check everything that `config` names. UserError before anything is trained.

    told: see `SharedJudge`; None where there is one rank. spells: see `SuiteWorld`.
    blind: the model that takes no pictures, for messages; "" where the model takes them.
    """
    if not config.unsafe or not config.harmless:
        missing = "unsafe" if not config.unsafe else "harmless"
        raise UserError(
            f"data.{missing}: found none, expected NAME[:SPLIT]=FOLDER: both unsafe and harmless"
            " data are needed (the reward is by label, and harmless data hold over-refusal down)"
        )
    settings = judge_settings(config)
    judge = SharedJudge(lambda: make_judge(settings), told) if told else make_judge(settings)
    notes: list[str] = []
    if settings.name in RULE:
        notes.append(
            "only the rule judges: an attack succeeds that is not refused and is answered about its"
            " goal, which is not harm; summary.json has that share as asr"
        )
    wording = Wording.load(Path(config.wording) if config.wording else None)
    stores: dict[str, ImageStore] = {DRAWN: DrawnWords()}
    images = StoresByName(stores)
    stores[UNDER] = WordsUnder(images)
    common = (config, seed, wording, stores, notes, told, blind)
    unsafe = _read(config.unsafe, "unsafe", *common)
    harmless = _read(config.harmless, "harmless", *common)
    test = {}
    if config.test:
        for text in config.test:
            suite = _open(text, config, wording, training=False, stores=stores, part="test")
            cases = _checked(suite, config, notes, blind)
            test[suite.name] = _drawn(suite, cases, config, seed, notes, told)
    else:
        unsafe, test_unsafe = hold_out(unsafe, config.holdout, f"{seed}/test", wording)
        harmless, test_harmless = hold_out(harmless, config.holdout, f"{seed}/test", wording)
        for case in (*test_unsafe, *test_harmless):
            test.setdefault(case.suite, []).append(case)
        for name in test:
            stores[f"test:{name}"] = stores[f"train:{name}"]
        notes.append(f"data.test is empty: {config.holdout:.0%} of the cases are held out")
    kept = []
    for cases in (unsafe, harmless):
        if config.contamination == "ignore":
            kept.append(list(cases))
            continue
        found = find_contamination(
            cases, test, threshold=config.contamination_threshold, wording=wording
        )
        if found.dropped and config.contamination == "error":
            case, twin = found.dropped[0]
            raise UserError(
                f"{case.where}: found a near duplicate of {twin.where} (test), expected none;"
                f" {'; '.join(found.lines())}; --data.contamination drop leaves them out"
            )
        notes += [f"{line}: left out of training" for line in found.lines()]
        kept.append(found.clean)
    share = max(config.probe, PROBE / max(1, len(kept[1])))
    harmless, probe = hold_out(kept[1], min(share, 0.5), f"{seed}/probe", wording)
    for name, cases in (("unsafe", kept[0]), ("harmless", harmless), ("harmless", probe)):
        if not cases:
            raise UserError(
                f"data.{name}: found no case left to train on, expected some"
                f" ({'; '.join(notes) or 'the suites are too small'})"
            )
    if len(probe) < PROBE_LEAST:
        notes.append(
            f"the over-refusal monitor is as good as blind: its probe has {len(probe)} harmless"
            f" cases, expected {PROBE_LEAST} or more; name more harmless data"
        )
    split = Split(unsafe=kept[0], harmless=harmless, probe=probe, test=test)
    draws = not (blind or config.text_only)
    world = SuiteWorld(
        split, judge=judge, wording=wording, config=config, spells=spells, draws=draws
    )
    counted = f"{len(kept[0])} unsafe and {len(harmless)} harmless cases, probe {len(probe)}"
    notes.append(f"training on {counted}; test: {sum(map(len, test.values()))} cases")
    return Built(world=world, images=images, notes=tuple(notes))


def _open(
    text: str,
    config: DataConfig,
    wording: Wording,
    *,
    training: bool,
    stores: dict[str, ImageStore],
    part: str,
) -> OpenSuite:
    suite = open_suite(
        SuiteSpec.parse(text), training=training, wording=wording, text_only=config.text_only
    )
    key = f"{part}:{suite.name}"
    if part == "test" and key in stores:
        raise UserError(f"data.test: found {suite.name} twice, expected each suite once")
    stores[key] = suite.images
    return suite


def _read(
    texts: Sequence[str],
    label: str,
    config: DataConfig,
    seed: int,
    wording: Wording,
    stores: dict[str, ImageStore],
    notes: list[str],
    told: Told | None,
    blind: str,
) -> list[SuiteCase]:
    """The cases of one label; a suite with both (VLGuard) may be named on both sides."""
    out: list[SuiteCase] = []
    for text in texts:
        suite = _open(text, config, wording, training=True, stores=stores, part="train")
        every = _checked(suite, config, notes, blind)
        cases = [case for case in every if case.label == label]
        if not cases:
            raise UserError(
                f"data.{label}: found no {label} case in {suite.name}, expected some;"
                f" name it in data.{'harmless' if label == 'unsafe' else 'unsafe'}"
            )
        out += _drawn(suite, cases, config, seed, notes, told)
    return out


def _checked(suite: OpenSuite, config: DataConfig, notes: list[str], blind: str) -> list[SuiteCase]:
    """Every case; UserError where one shows a picture to a model that takes none."""
    cases = suite.checked(notes, skip_broken=config.skip_broken)
    if blind:
        setting = "--data.text_only true"
        refuse_pictures(suite.name, cases, model=f"model.defender {blind}", setting=setting)
    return cases


def _drawn(
    suite: OpenSuite,
    cases: list[SuiteCase],
    config: DataConfig,
    seed: int,
    notes: list[str],
    told: Told | None,
) -> list[SuiteCase]:
    """`data.limit` of the cases, once their pictures are known to be whole."""
    if config.limit:
        cases = sampled(cases, config.limit, f"{seed}/{suite.name}")
    kept, note = suite.whole(cases, skip_broken=config.skip_broken, told=told)
    notes += [note] if note else []
    return kept


def judged_by(judge_id: str) -> JudgedBy:
    """What a run says of its judge. A guard's agreement with people is not known to it."""
    return JudgedBy(
        by=judge_id,
        people=people_words(judge_id, ""),
        attacks="not refused" if by_rule(judge_id) else "ASR",
    )


def judge_settings(config: DataConfig) -> JudgeSettings:
    """The settings `data.judge*` in the form that judges take."""
    return JudgeSettings(
        name=config.judge,
        setting="data.judge",
        url=config.judge_url or "",
        model=config.judge_model or "",
        format=config.judge_format,
        controversial=config.controversial,
        cache=config.judge_cache or "",
    )
