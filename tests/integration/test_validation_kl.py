"""KL is logged at every validation, whatever beta is, and training does not notice."""

import torch

from helpers.runs import checkpoint_of, logged_steps

OPTIONS = (
    "logger=csv",
    "trainer.val_check_interval=1",
    "optim.optimizer.lr=1e-2",
    "stage.entropy_coef=1",
    "stage.num_generations=2",
)


def test_beta_0_logs_kl_and_trains_as_without(run_stage, start, tmp_path):
    def logged(folder):
        return [float(row["val/kl"]) for row in logged_steps(folder) if row.get("val/kl")]

    folder = run_stage("grpo", tmp_path / "with", 2, start, *OPTIONS)
    kl = logged(folder)
    assert len(kl) == 2
    assert 0.0 < kl[0] < kl[1]  # the entropy bonus moves the weights away from where they began
    plain = run_stage("grpo", tmp_path / "without", 2, start, *OPTIONS, "~callbacks.validation_kl")
    assert logged(plain) == []
    ours, theirs = checkpoint_of(folder)["state_dict"], checkpoint_of(plain)["state_dict"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    cut = run_stage("grpo", tmp_path / "cut", 1, start, *OPTIONS)
    run_stage("grpo", cut, 2, start, *OPTIONS, "ckpt_path=last")
    assert checkpoint_of(cut)["metrics"]["val/kl"] == checkpoint_of(folder)["metrics"]["val/kl"] == kl[-1]
