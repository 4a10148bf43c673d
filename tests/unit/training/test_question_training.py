"""SFT learns every kind of question from one label file, mixed in one batch."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from affectgpt_r1.data.datamodule import MERCaptionDataModule
from affectgpt_r1.data.layouts.annotations import QUESTION_COLUMNS
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.training.sft import SFTStage

KINDS = tuple(QUESTION_COLUMNS)
SENTENCES = {
    "description": "The voice sounds ",
    "ovlabel": "The character's emotional state is ",
    "onehot": "The character's emotional state is ",
    "onehot_w_candidates": "The most likely label is ",
    "sentiment": "The character's sentiment state is ",
    "valence": "The valence score is ",
    "preference": "The best one is a",
    "reward": "accept this sentence.",
}


@pytest.fixture
def loader(tmp_path, tiny_data_root):
    """Sixteen clips that answer every question, in one batch."""
    root = tiny_data_root(tmp_path, num_train=16, num_test=4)
    labels = pd.read_csv(root / "track2_train_mercaptionplus.csv")
    labels["openset"] = [f"[{cell.strip('[]').split(',')[0]}]" for cell in labels["openset"]]
    labels["valence"] = [number / 8 - 1 for number in range(16)]
    labels["a1"], labels["a2"], labels["reward"] = "A smile.", "A frown.", "accept"
    labels["preference"] = ["a1", "a2"] * 8
    labels.to_csv(root / "every_question.csv", index=False)
    data = MERCaptionDataModule(
        str(root),
        train_labels="every_question.csv",
        test_labels="test.csv",
        val_fraction=0.0,
        image_size=48,
        num_frames=2,
        num_windows=2,
        batch_size=16,
        questions=KINDS,
        seed=3,
    )
    data.setup()
    return data.train_dataloader()


def test_one_step_learns_every_kind_from_a_mixed_batch(loader, make_policy):
    policy, stage = make_policy(), SFTStage()
    stage.prepare(policy)
    batch = next(iter(loader))
    assert set(batch.questions) == set(KINDS)
    for kind, target in zip(batch.questions, policy.template.targets(batch), strict=True):
        assert target.startswith(SENTENCES[kind])

    def losses() -> dict[str, float]:
        tokens = policy.encode_targets(batch)
        with torch.no_grad():
            logps = (policy.per_token_logps(batch, tokens) * tokens.mask).sum((1, 2)) / tokens.mask.sum((1, 2))
        return {
            kind: -sum(one for asked, one in zip(batch.questions, logps.tolist(), strict=True) if asked == kind)
            for kind in KINDS
        }

    before = losses()
    optimizer = torch.optim.AdamW([one for one in policy.parameters() if one.requires_grad], lr=2e-3)
    for step in range(6):
        loss = stage.training_step(policy, batch, seed=step).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = losses()
    assert {kind for kind in KINDS if after[kind] < before[kind]} == set(KINDS)


def test_a_repeated_epoch_asks_every_clip_the_same(loader):
    first, again = next(iter(loader)), next(iter(loader))
    assert (first.names, first.questions, first.annotations) == (again.names, again.questions, again.annotations)


def test_annotations_follow_their_clips_and_load_as_plain_values(loader, tmp_path):
    batch = next(iter(loader))
    some = select_clips(batch, [5, 2])
    assert (some.questions, some.annotations) == (
        (batch.questions[5], batch.questions[2]),
        (batch.annotations[5], batch.annotations[2]),
    )
    torch.save({"annotations": some.annotations}, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["annotations"] == some.annotations
