from __future__ import annotations

import pytest

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.training.grpo_config import GRPOConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "gspo"}, "stage.loss_type=gspo is unknown; choose among grpo, bnpo, dr_grpo, dapo, cispo"),
        ({"scale_rewards": True}, "stage.scale_rewards=True is unknown; choose among group, batch, none"),
        ({"kl_estimator": "k4"}, "choose among k1, k2, k3"),
        ({"num_generations": 1}, "at least 2"),
        ({"num_iterations": 0}, "stage.num_iterations=0 must be at least 1"),
        ({"max_resamples": -1}, "stage.max_resamples=-1 must be at least 0"),
        ({"top_entropy_quantile": 0.0}, "above 0"),
        ({"beta": -1.0}, "stage.beta=-1.0 must be 0 or more"),
        ({"beta": float("nan")}, "stage.beta=nan must be 0 or more"),
        ({"epsilon": -0.2}, "stage.epsilon=-0.2 must be between 0 and 1"),
        ({"epsilon": float("inf")}, "stage.epsilon=inf must be between 0 and 1"),
        ({"epsilon_high": -0.1}, "stage.epsilon_high=-0.1 must be 0 or more"),
        ({"delta": 0.5}, "stage.delta=0.5 must be above 1"),
        ({"entropy_coef": float("nan")}, "stage.entropy_coef=nan must be finite"),
        ({"truncated_leave_baseline": True}, "mask_truncated_completions"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig(**changes)
