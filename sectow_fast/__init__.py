"""sectow_fast: SecTOW's attacker/defender tug-of-war by GRPO, on fused kernels."""

__version__ = "0.1.0"
