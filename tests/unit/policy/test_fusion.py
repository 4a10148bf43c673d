"""The published fusion against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.policy.fusion import AttentionFusion

VIDEO = torch.tensor([[[2.0, 1.0], [0.0, 3.0]]])
AUDIO = torch.tensor([[[1.0], [3.0]]])


@pytest.fixture
def fusion() -> AttentionFusion:
    """Two video features, one audio feature, hidden size 2, output size 2; small whole weights."""
    built = AttentionFusion(2, 1, 2, 2)
    weights = {
        "video.attention": ([[1, -1]], [1]),
        "video.projection": ([[1, 2], [0, -1]], [1, 0]),
        "audio.attention": ([[2]], [0]),
        "audio.projection": ([[1], [2]], [0, 1]),
        "multi.video": ([[1, 0], [1, 1]], [0, 1]),
        "multi.audio": ([[1], [-1]], [1, 0]),
        "multi.joint": ([[1, 0, 1, 0], [0, 1, 0, 1]], [0, 0]),
        "multi.scores": ([[1, -1], [0, 1]], [0, -1]),
        "multi.projection": ([[1, -1], [2, 0]], [0, 1]),
    }
    state = {}
    for name, (weight, bias) in weights.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.tensor(weight).float(), torch.tensor(bias).float()
    built.load_state_dict(state)
    return built


def test_video_token(fusion):
    # w = (2 - 1 + 1, 0 - 3 + 1) = (2, -2); sum 2 (2, 1) - 2 (0, 3) = (4, -4); projected (4 - 8 + 1, 4).
    assert fusion(VIDEO, None)["video"].tolist() == [[-3.0, 4.0]]


def test_audio_token(fusion):
    # w = (2, 6); sum 2 * 1 + 6 * 3 = 20; projected (20, 40 + 1). A softmax would have kept it below 3.
    assert fusion(None, AUDIO)["audio"].tolist() == [[20.0, 41.0]]


def test_multi_token(fusion):
    # Means (1, 2) and 2; v' = (1, 4), a' = (3, -2); joint (4, 2); s = (2, 1); f = 2 v' + a' = (5, 6);
    # projected (5 - 6, 10 + 1).
    assert fusion(VIDEO, AUDIO)["multi"].tolist() == [[-1.0, 11.0]]


def test_tokens_that_a_clip_can_have(fusion):
    assert set(fusion(VIDEO, AUDIO)) == {"video", "audio", "multi"}
    assert set(fusion(VIDEO, None)) == {"video"}
    assert set(fusion(None, AUDIO)) == {"audio"}
    assert fusion(None, None) == {}


def test_number_of_weights_at_the_published_sizes():
    """CLIP ViT-L/14 (768), HuBERT-large (1,024), Qwen2.5-7B (3,584), hidden size 1,024.

    Pooling: (768 + 1) + (768 * 3,584 + 3,584) = 2,756,865 and (1,024 + 1) + (1,024 * 3,584 + 3,584) = 3,674,625.
    Pre-fusion: 787,456 + 1,049,600 + 2,098,176 + 2,050 + 3,673,600 = 7,610,882.
    The 16.80 M of the paper's code hold one more projection of 768 to 3,584 (still images), which no prompt here uses.
    """
    with torch.device("meta"):
        fusion = AttentionFusion(768, 1024, 1024, 3584)
    sizes = {name: sum(one.numel() for one in part.parameters()) for name, part in fusion.named_children()}
    assert sizes == {"video": 2_756_865, "audio": 3_674_625, "multi": 7_610_882}
    assert sum(sizes.values()) == 14_042_372
    assert round((sum(sizes.values()) + 768 * 3584 + 3584) / 1e6, 2) == 16.80
