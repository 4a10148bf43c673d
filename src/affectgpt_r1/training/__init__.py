"""Training stages: SFT, GRPO and the tower pretraining of the synthetic clips."""
