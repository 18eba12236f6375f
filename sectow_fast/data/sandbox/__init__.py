"""The embedded world: a made-up language, drawn objects, attacks and suites. Nothing harmful."""

from sectow_fast.data.sandbox.world import (
    JAILBREAK_SUITES,
    OVER_REFUSAL_SUITES,
    UTILITY_SUITES,
    SandboxWorld,
)

__all__ = ["JAILBREAK_SUITES", "OVER_REFUSAL_SUITES", "UTILITY_SUITES", "SandboxWorld"]
