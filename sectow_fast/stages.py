"""Which stage a run is played on: the embedded sandbox, or real suites where any are named."""

from __future__ import annotations

from sectow_fast.config import Config
from sectow_fast.judges import GUARD_FORMATS, JUDGES, Told
from sectow_fast.protocols import Stage
from sectow_fast.types import UserError


def make_stage(config: Config, *, told: Told | None = None) -> Stage:
    """The stage of a run. UserError where names, data or models are not as they must be.

    told: how the first of several ranks tells the others what the judge says; None: one rank.
    """
    JUDGES.get(config.data.judge, setting="data.judge")
    GUARD_FORMATS.get(config.data.judge_format, setting="data.judge_format")
    if config.data.unsafe or config.data.harmless or config.data.test:
        if config.data.judge == "rule":
            raise UserError(
                "data.judge: found rule, which knows of refusals and not of harm, so that an"
                " attacker wins by any request that is not refused; expected --data.judge guard"
                " with --data.judge_url or --data.judge_model (docs/EVALUATE.md), or"
                " --data.judge rule-knowingly to train by it all the same"
            )
        from sectow_fast.real.stage import RealStage

        stage: Stage = RealStage(config, told=told)
        _check_proxy(config, stage)
        return stage
    from sectow_fast.data.sandbox.stage import SandboxStage

    stage = SandboxStage(config)
    _check_proxy(config, stage)
    return stage


def _check_proxy(config: Config, stage: Stage) -> None:
    if config.game.judge == "exact" or config.game.proxy in stage.proxies:
        return
    known = ", ".join(stage.proxies) or "none: real suites have no exact judge to compare with"
    raise UserError(
        f"game.proxy: found {config.game.proxy!r}, expected one of this world's ({known});"
        " give one, or --game.judge exact"
    )
