"""A state dict with the published names and shapes becomes a checkpoint of ours; a pickle with code does not."""

from __future__ import annotations

import re

import pytest
import torch

from affectgpt_r1.cli.convert import main
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.published_names import our_name, our_names

LINEAR = {  # the released attention model: published name -> (out, in)
    "video_attention_mlp": (1, 768),
    "affectgpt_proj": (3584, 768),
    "audio_attention_mlp": (1, 1024),
    "audio_llama_proj": (3584, 1024),
    "image_llama_proj": (3584, 768),
    "multi_video_embs": (1024, 768),
    "multi_audio_embs": (1024, 1024),
    "attention_mlp": (1024, 2048),
    "fc_att": (2, 1024),
    "multi_llama_proj": (3584, 1024),
}
PROJECTIONS = {
    "self_attn.q_proj": (3584, 3584),
    "self_attn.k_proj": (512, 3584),
    "self_attn.v_proj": (512, 3584),
    "self_attn.o_proj": (3584, 3584),
    "mlp.gate_proj": (18944, 3584),
    "mlp.up_proj": (18944, 3584),
    "mlp.down_proj": (3584, 18944),
}


PUBLISHED = {  # of the released checkpoints, as far as it matters here
    "model": {
        "arch": "affectgpt",
        "llama_model": "Qwen25",
        "visual_encoder": "CLIP_VIT_LARGE",
        "acoustic_encoder": "HUBERT_LARGE",
        "multi_fusion_type": "attention",
        "video_fusion_type": "attention",
        "audio_fusion_type": "attention",
        "image_fusion_type": "mean",
        "num_video_query_token": 1,
        "num_audio_query_token": 1,
        "num_multi_query_token": 1,
        "num_image_query_token": 1,
        "frozen_llm": False,
        "lora_r": 16,
        "vis_processor": {"train": {"name": "alpro_video_train", "n_frms": 8, "image_size": 224}},
    },
    "datasets": {
        "mercaptionplus": {
            "data_type": "video",
            "face_or_frame": "multiface_audio_face_text",
            "label_type": "hybird",
        }
    },
    "run": {"seed": 42, "amp": True},
    "inference": {"face_or_frame": "xxx"},
}


def published_shapes():
    for name, (out, size) in LINEAR.items():
        yield f"{name}.weight", (out, size)
        yield f"{name}.bias", (out,)
    for layer in range(28):
        for name, (out, size) in PROJECTIONS.items():
            prefix = f"llama_model.base_model.model.model.layers.{layer}.{name}"
            yield f"{prefix}.lora_A.default.weight", (16, size)
            yield f"{prefix}.lora_B.default.weight", (out, 16)


@pytest.fixture
def released(tmp_path):
    """A released checkpoint's file: half precision, each tensor told apart by its value; strides of 0 keep it small."""
    state = {
        name: torch.tensor(float(number), dtype=torch.float16).expand(shape)
        for number, (name, shape) in enumerate(published_shapes())
    }
    path = tmp_path / "checkpoint_000035_loss_0.3.pth"
    torch.save({"model": state, "epoch": 35, "scaler": None, "config": PUBLISHED}, path)
    return path


def test_a_released_checkpoint_becomes_one_of_ours(released, tmp_path, capsys):
    main([str(released), "--output", str(tmp_path / "ours")])
    written = torch.load(tmp_path / "ours" / "checkpoints" / "best.ckpt", weights_only=True)
    ours, config = written["state_dict"], written["config"]
    values = {name: number for number, (name, _) in enumerate(published_shapes())}
    places = {
        "policy.fusion.multi.scores.weight": "fc_att.weight",
        "policy.fusion.video.projection.bias": "affectgpt_proj.bias",
        "policy.language_model.model.layers.27.mlp.down_proj.lora_B.default.weight": (
            "llama_model.base_model.model.model.layers.27.mlp.down_proj.lora_B.default.weight"
        ),
    }
    for place, name in places.items():
        assert ours[place].unique().item() == values[name]
        assert ours[place].dtype == torch.float32
    assert len(ours) == len(values) - 2  # still images' projector is not built
    assert sum(one.numel() for one in ours.values()) == 40_370_176 + 14_042_372
    printed = capsys.readouterr().out
    assert f"{len(ours)} tensors, model.fusion=" in printed
    assert "Without image_llama_proj, which this policy does not use" in printed
    assert written["imported"] == {"file": "checkpoint_000035_loss_0.3.pth", "epoch": 35}
    assert config["model"]["language_model"]["dtype"] == "float16"
    assert config["model"]["fusion"] == {"video": "attention", "audio": "attention", "multi": "attention"}
    assert config["prompt"]["bos_at_inference"] is False
    assert config["data"]["questions"] == ["description", "ovlabel"]
    assert (config["data"]["visual"], config["data"]["channel_order"]) == ("face", "rgb")
    with pytest.raises(SystemExit):
        main([str(released), "--output", str(tmp_path / "ours")])
    assert "best.ckpt exists; choose another --output" in capsys.readouterr().err


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": {"affectgpt_proj.weight": torch.ones(1)}, "extra": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "evil.pth"), "--output", str(tmp_path / "ours")])
    assert ended.value.code == 2
    assert "holds code" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.lora.r=8", "model.lora={r: 8, .*was trained with {r: 16"),
        ("data.visual=frame", "data.visual=frame: .*was trained with face"),
        ("model.fusion=none", "model.fusion=none: .*was trained with {video: attention"),
    ],
)
def test_an_override_that_contradicts_the_file_is_refused(released, tmp_path, capsys, override, told):
    with pytest.raises(SystemExit):
        main([str(released), "--output", str(tmp_path / "ours"), override])
    assert re.search(told, capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["attention", "qformer"])
def test_every_published_name_has_its_place(make_policy, kind):
    """Back and forth: Q-Former names as BLIP-2's code spells them."""
    policy = make_policy(fusion=kind, lora={"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj"]})
    trained = policy.trainable_parameters()
    published = {
        "fusion.video.": "video",
        "fusion.audio.": "audio",
        "fusion.multi.": "multi",
    }
    layers = {
        "self_attention.query": "attention.self.query",
        "self_attention.key": "attention.self.key",
        "self_attention.value": "attention.self.value",
        "self_attention.output": "attention.output.dense",
        "self_attention.norm": "attention.output.LayerNorm",
        "cross_attention.query": "crossattention.self.query",
        "cross_attention.key": "crossattention.self.key",
        "cross_attention.value": "crossattention.self.value",
        "cross_attention.output": "crossattention.output.dense",
        "cross_attention.norm": "crossattention.output.LayerNorm",
        "intermediate": "intermediate_query.dense",
        "output": "output_query.dense",
        "norm": "output_query.LayerNorm",
    }
    tables = {"video": "video_frame_position_embedding", "audio": "audio_position_embedding"}
    places = {our_name(f"{name}.{kind}") for name in LINEAR for kind in ("weight", "bias")}
    for part in published.values():
        places |= {our_name(f"{part}_query_tokens"), our_name(f"{tables.get(part, 'multi_position_embedding')}.weight")}
        bert = f"{part}_Qformer.bert."
        for one in ("weight", "bias"):
            places.add(our_name(f"{bert}embeddings.LayerNorm.{one}"))
            places |= {our_name(f"{bert}encoder.layer.{n}.{name}.{one}") for n in (0, 1) for name in layers.values()}
    fusion = {name for name in trained if name.startswith("fusion.")}
    assert fusion <= places
    assert our_name(f"video_Qformer.bert.encoder.layer.1.{layers['cross_attention.key']}.bias") == (
        "fusion.video.reader.layers.1.cross_attention.key.bias"
    )


def test_names_that_are_not_affectgpts():
    assert our_name("visual_encoder.model.embeddings.weight") is None
    assert our_name("video_Qformer.bert.embeddings.position_ids") is None
    with pytest.raises(CheckpointError, match="is not a weight of AffectGPT"):
        our_name("video_Qformer.cls.predictions.bias")
    one = torch.ones(1)
    with pytest.raises(CheckpointError, match=r"lacks 1 .* fusion\.b"):
        our_names({"affectgpt_proj.weight": one}, ["fusion.video.projection.weight", "fusion.b"])
    with pytest.raises(CheckpointError, match=r"fc_att\.bias has no place"):
        our_names({"fc_att.bias": one}, ["fusion.multi.projection.weight"])
    assert our_names({"fc_att.bias": one}, []) == {}  # a part that the input mode does not use
    assert our_names({"image_llama_proj.bias": one, "llama_model.base_model.model.lm_head.weight": one}, []) == {}
