"""The published fusion against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.fusion import FUSIONS, Fusion
from affectgpt_r1.policy.qformer import QFormer

VIDEO = torch.tensor([[[2.0, 1.0], [0.0, 3.0]]])
AUDIO = torch.tensor([[[1.0], [3.0]]])
BOTH = {"video": VIDEO, "audio": AUDIO}


@pytest.fixture
def fusion() -> Fusion:
    """Two video features, one audio feature, hidden size 2, output size 2; small whole weights."""
    built = Fusion(2, 1, 2, 2)
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
    assert fusion({"video": VIDEO})["video"].tolist() == [[[-3.0, 4.0]]]


def test_audio_token(fusion):
    # w = (2, 6); sum 2 * 1 + 6 * 3 = 20; projected (20, 40 + 1). A softmax would have kept it below 3.
    assert fusion({"audio": AUDIO})["audio"].tolist() == [[[20.0, 41.0]]]


def test_multi_token(fusion):
    # Means (1, 2) and 2; v' = (1, 4), a' = (3, -2); joint (4, 2); s = (2, 1); f = 2 v' + a' = (5, 6);
    # projected (5 - 6, 10 + 1).
    assert fusion(BOTH)["multi"].tolist() == [[[-1.0, 11.0]]]


def test_tokens_that_a_clip_can_have(fusion):
    assert set(fusion(BOTH)) == {"video", "audio", "multi"}
    assert set(fusion({"video": VIDEO})) == {"video"}
    assert set(fusion({"audio": AUDIO})) == {"audio"}
    assert fusion({}) == {}


def test_frames_beside_faces_share_the_projector(fusion):
    tokens = fusion({**BOTH, "frame": 2 * VIDEO})
    assert set(tokens) == {"video", "audio", "multi", "frame"}
    # w = (2 * 1 + 1, 2 * -3 + 1) = (3, -5); sum 3 (4, 2) - 5 (0, 6) = (12, -24); projected (12 - 48 + 1, 24).
    assert tokens["frame"].tolist() == [[[-35.0, 24.0]]]
    assert tokens["multi"].tolist() == [[[-1.0, 11.0]]]


def sizes_of(kind, **options):
    with torch.device("meta"):
        fusion = Fusion(768, 1024, 1024, 3584, kind, **options)
    return {name: sum(one.numel() for one in part.parameters()) for name, part in fusion.named_children()}


def test_number_of_weights_at_the_published_sizes():
    """CLIP ViT-L/14 (768), HuBERT-large (1,024), Qwen2.5-7B (3,584), hidden size 1,024.

    Pooling: (768 + 1) + (768 * 3,584 + 3,584) = 2,756,865 and (1,024 + 1) + (1,024 * 3,584 + 3,584) = 3,674,625.
    Pre-fusion: 787,456 + 1,049,600 + 2,098,176 + 2,050 + 3,673,600 = 7,610,882.
    The 16.80 M of the paper's code hold the projector of still images, too.
    """
    sizes = sizes_of("attention", image=True)
    assert sizes == {"video": 2_756_865, "audio": 3_674_625, "multi": 7_610_882, "image": 2_756_096}
    assert round(sum(sizes.values()) / 1e6, 2) == 16.80
    assert sizes_of("none") == {"video": 2_756_865, "audio": 3_674_625}
    assert sizes_of("mean") == {"video": 2_756_096, "audio": 3_673_600, "multi": 7_610_882}


def query_former_size(context, queries, positions):
    norm, square = 2 * 768, 768 * 768 + 768
    attention = [2 * square + 2 * (width * 768 + 768) + norm for width in (768, context)]
    feed_forward = 768 * 3072 + 3072 + 3072 * 768 + 768 + norm
    return 2 * (sum(attention) + feed_forward) + norm + queries * 768 + positions * context


def test_number_of_weights_of_the_query_formers():
    projection = 768 * 3584 + 3584
    assert sizes_of("qformer") == {
        "video": query_former_size(768, 32, 32) + projection,
        "audio": query_former_size(1024, 8, 8) + projection,
        "multi": query_former_size(1024, 16, 264) + projection + (768 * 1024 + 1024) + (1024 * 1024 + 1024),
    }


def test_mean_pooling_is_the_projected_mean():
    fusion = Fusion(2, 1, 2, 3, "mean")
    expected = fusion.video.projection(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(fusion({"video": VIDEO})["video"], expected.view(1, 1, 3))


def test_without_pre_fusion_there_is_no_multi_token():
    assert set(Fusion(2, 1, 2, 3, "none")(BOTH)) == {"video", "audio"}


def test_a_still_image_has_one_token_and_no_other():
    fusion = Fusion(2, 1, 2, 3, image=True)
    assert {name: token.shape for name, token in fusion({"video": VIDEO[:, :1]}).items()} == {"image": (1, 1, 3)}


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_part_learns(kind):
    fusion = Fusion(6, 5, 7, 4, kind)
    generator = torch.Generator().manual_seed(0)
    features = {"video": torch.randn(3, 8, 6, generator=generator), "audio": torch.randn(3, 8, 5, generator=generator)}
    tokens = fusion(features)
    assert {name: token.shape for name, token in tokens.items()} == {
        name: (3, fusion.num_tokens[name], 4) for name in tokens
    }
    sum(token.square().sum() for token in tokens.values()).backward()
    still = [name for name, one in fusion.named_parameters() if one.grad is None or not one.grad.any()]
    assert still == []


def test_query_former_against_berts_layers():
    """One layer written out with torch's own attention."""
    former = QFormer(5, 3, 9, hidden_size=8, num_heads=2).eval()
    context = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    states = former.norm(former.queries).expand(2, -1, -1)
    seen = context + former.positions.weight[:4]
    for layer in former.layers:
        for part, source in ((layer.self_attention, None), (layer.cross_attention, seen)):
            source = states if source is None else source
            q, k, v = part.query(states), part.key(source), part.value(source)
            heads = []
            for head in (slice(0, 4), slice(4, 8)):
                weights = (q[..., head] @ k[..., head].transpose(1, 2) / 2.0).softmax(-1)
                heads.append(weights @ v[..., head])
            states = part.norm(states + part.output(torch.cat(heads, -1)))
        states = layer.norm(states + layer.output(torch.nn.functional.gelu(layer.intermediate(states))))
    torch.testing.assert_close(former(context), states)


def test_query_formers_know_the_order_of_frames():
    former = QFormer(5, 3, 9, hidden_size=8, num_heads=2).eval()
    torch.nn.init.normal_(former.positions.weight)
    context = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1))
    assert (former(context) - former(context.flip(1))).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["softmax", {"video": "attention"}, {**FUSIONS["none"], "multi": "mean"}])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(ConfigError, match=r"model\.fusion"):
        Fusion(2, 1, 2, 2, kind)
