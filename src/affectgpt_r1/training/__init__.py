"""Training stages: SFT, GRPO and the encoder pretraining of the synthetic clips."""
