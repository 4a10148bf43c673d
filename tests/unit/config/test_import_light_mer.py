"""A toy checkpoint with Light-MER's names and parts: imported by ``model=light_mer``, answered with, trained on."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from affectgpt_r1.cli.convert import main
from affectgpt_r1.config.instantiate import build_policy
from affectgpt_r1.inference.load_policy import load_predictor
from affectgpt_r1.policy.published_names import LINEAR_LAYERS
from affectgpt_r1.training.sft import SFTStage
from helpers.configs import compose_config
from helpers.toy_folders import CONVOLUTIONS, TOY

HUBERT = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
PARTS = {**TOY, "language_model": {**TOY["language_model"], "head_dim": 12, "tie_word_embeddings": True}}
SIZES = [f"model.{part}.{key}={value}" for part, widths in PARTS.items() for key, value in widths.items()]
TYPES = ["model.language_model.dtype=float32", "model.video_encoder.dtype=float32"]
GIVEN = ["model=light_mer", *SIZES, "model.fusion_hidden_size=32", *TYPES]


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tokenizer_file):
    import transformers as hf

    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(3)
    clip = {**TOY["video_encoder"], "patch_size": 16}
    hf.Qwen3ForCausalLM(hf.Qwen3Config(**PARTS["language_model"])).save_pretrained(folder / "Qwen3-0.6B")
    hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**clip)).save_pretrained(folder / "clip-vit-base-patch16")
    hubert = hf.HubertConfig(**TOY["audio_encoder"], **HUBERT, **CONVOLUTIONS)
    hf.HubertModel(hubert).save_pretrained(folder / "chinese-hubert-base")
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(folder / "Qwen3-0.6B")
    return folder


def light_mer(weights, *more):
    given = [one for one in GIVEN if "patch_size" not in one]
    return compose_config("train", "experiment=affectgpt/published", f"paths.weights={weights}", *given, *more)


def published_name(ours):
    if ours.startswith("language_model."):
        return f"llama_model.base_model.model.{ours.removeprefix('language_model.')}"
    layers = {place: name for name, place in LINEAR_LAYERS.items()}
    layer, _, weight = ours.rpartition(".")
    return f"{layers[layer]}.{weight}"


@pytest.fixture
def released(weights, tmp_path):
    policy = build_policy(light_mer(weights))
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    state = {published_name(name): one.detach() for name, one in policy.trainable_parameters().items()}
    state["ot_hidden_proj.student_proj.0.weight"] = torch.eye(32)  # of the distillation
    config = {
        "model": {"llama_model": "Qwen3_0.6B", "visual_encoder": "CLIP_VIT_BASE", "acoustic_encoder": "HUBERT_BASE"},
        "datasets": {"mercaptionplus": {"face_or_frame": "multiface_audio_face_text", "label_type": "hybird"}},
    }
    torch.save({"model": state, "config": config, "epoch": 60}, tmp_path / "student.pth")
    return policy, tmp_path / "student.pth"


def test_a_student_converts_answers_and_trains_on(released, weights, tmp_path, make_batch, write_video, capsys):
    policy, file = released
    given = [one for one in GIVEN if "patch_size" not in one]
    main([str(file), "--output", str(tmp_path / "run"), f"paths.weights={weights}", *given])
    assert "Without ot_hidden_proj, which this policy does not use." in capsys.readouterr().out
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    config = light_mer(weights, f"init_from={best}")
    stored = torch.load(best, weights_only=True)["config"]
    for section in ("model", "data", "prompt"):
        OmegaConf.update(config, section, stored[section], merge=False)
    assert config.model.language_model.model_type == "qwen3"
    imported = build_policy(config)
    batch = make_batch(2)
    policy.template = imported.template
    with torch.no_grad():
        expected, found = (
            each.eval().per_token_logps(batch, each.encode_targets(batch)) for each in (policy, imported)
        )
    torch.testing.assert_close(found, expected)
    row = load_predictor(best, device="cpu", faces="centre")(write_video(tmp_path / "clip.mp4", sound=True), "Hello.")
    assert row["modalities"] == ["video", "audio", "text"]
    loss = SFTStage().training_step(imported.train(), batch, seed=0).loss
    loss.backward()
    trained = imported.trainable_parameters()
    assert all(param.grad is not None for name, param in trained.items() if "image" not in name)


def test_the_file_says_which_model_takes_it(released, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(released[1]), "--output", str(tmp_path / "run")])
    assert "was trained with llama_model: Qwen3_0.6B; give model=light_mer" in capsys.readouterr().err
