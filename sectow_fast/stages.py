"""Which stage a run is played on: the embedded sandbox, or real suites where any are named."""

from __future__ import annotations

from typing import Any

from sectow_fast.config import Config


def make_stage(config: Config) -> Any:
    """The stage of `match.Match`. UserError where data or models are not as they must be."""
    if config.data.unsafe or config.data.harmless or config.data.test:
        from sectow_fast.real.stage import RealStage

        return RealStage(config)
    from sectow_fast.data.sandbox.stage import SandboxStage

    return SandboxStage(config)
