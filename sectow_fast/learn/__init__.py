"""How both roles learn: shared-prefix rows, GRPO steps, SFT steps, checkpoints."""
