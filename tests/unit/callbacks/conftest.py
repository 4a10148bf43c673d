import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn, optim
from torch.utils.data import DataLoader

from affectgpt_r1.types import CompletionRecord

collect_ignore = ["conftest.py"]  # --doctest-modules would import two modules of this name


class TinyModule(LightningModule):
    """Follow the contract of AffectModule: dict with loss and records, train/ and val/ logs."""

    def __init__(self, scores=(0.5, 0.7, 0.6)):
        super().__init__()
        self.weight = nn.Linear(2, 1)
        self.scores = list(scores)

    def training_step(self, batch, batch_idx):
        loss = self.weight(batch).square().mean()
        self.log_dict({"train/loss": loss.detach(), "train/reward": 0.25})
        record = CompletionRecord(
            name=f"clip{batch_idx}",
            prompt="What does [the person] feel?",
            target="sad, tired",
            completion="<answer>sad</answer>",
            rewards={"accuracy": 0.5, "format": None},
            reward=0.5,
            advantage=float("nan") if batch_idx == 0 else -0.25,
        )
        return {"loss": loss, "records": (record, record)}

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log("val/f1", self.scores.pop(0))

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def tiny_module():
    torch.manual_seed(0)
    return TinyModule


@pytest.fixture
def fit(tmp_path):
    """Fit 3 epochs of 4 steps, validating after each, on the CPU."""

    def run(module, callbacks, *, plugins=(), logger=False, ckpt_path=None, data=None, **options):
        validation = DataLoader(torch.arange(8.0).reshape(4, 2), batch_size=1)
        options = {"max_epochs": 3, "log_every_n_steps": 1, "enable_model_summary": False} | options
        trainer = Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=logger,
            callbacks=callbacks,
            plugins=list(plugins),
            enable_progress_bar=any("Progress" in type(callback).__name__ for callback in callbacks),
            enable_checkpointing=any("Checkpoint" in type(callback).__name__ for callback in callbacks),
            **options,
        )
        trainer.fit(module, validation if data is None else data, validation, ckpt_path=ckpt_path)
        return trainer

    return run
