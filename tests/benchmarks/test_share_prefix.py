"""A GRPO update with share_prefix against one without: CPU time, interleaved, and what the graph keeps."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.tokenizer import build_tokenizer
from affectgpt_r1.types import ClipBatch, TokenBatch
from helpers.toy_humanomni import toy_batch, toy_config

NUM_CLIPS, NUM_GENERATIONS, LENGTH, ROUNDS = 4, 8, 24, 7


@pytest.fixture
def policy(tmp_path: Path):
    torch.set_num_threads(1)
    template = PromptTemplate("Please recognize emotional states of the character.")
    build_tokenizer(["<answer> happy, sad </answer>"], template.phrases(), 400, tmp_path / "tokenizer.json")
    config = OmegaConf.load(CONFIGS / "model" / "tiny.yaml")
    config.tokenizer, config.video_encoder.image_size = str(tmp_path / "tokenizer.json"), 48
    arguments = OmegaConf.to_container(config, resolve=True)
    assert isinstance(arguments, dict)
    del arguments["_target_"]
    return build_policy(**arguments, template=template)


@pytest.fixture
def humanomni(tmp_path: Path):
    """HumanOmni's 392 and 500 media positions at toy width."""
    torch.set_num_threads(1)
    build_tokenizer(["<answer> happy, sad </answer>"], ["emotion"], 400, tmp_path / "tokenizer.json")
    config = toy_config(tmp_path / "tokenizer.json")
    config["video_encoder"] |= {"image_size": 224, "patch_size": 16}
    config["audio_encoder"]["max_source_positions"] = 1500
    config["language_model"] |= {"max_position_embeddings": 2048, "num_hidden_layers": 4}
    return build_policy(**config, template=PromptTemplate("Which emotion?", visual="frame"))


def batch_of(words: int) -> ClipBatch:
    return ClipBatch(
        names=tuple(f"clip{number}" for number in range(NUM_CLIPS)),
        subtitles=(" ".join(["happy"] * words),) * NUM_CLIPS,
        labels=(("happy",),) * NUM_CLIPS,
        reasons=("",) * NUM_CLIPS,
        modalities=(("video", "audio", "text"),) * NUM_CLIPS,
        features={"video": torch.randn(NUM_CLIPS, 8, 64), "audio": torch.randn(NUM_CLIPS, 8, 64)},
    )


def update_seconds(policy, batch: ClipBatch, completions: TokenBatch, *, share_prefix: bool) -> float:
    policy.engine.share_prefix = share_prefix
    started = time.process_time()
    policy.per_token_logps(batch, completions).mean().backward()
    policy.zero_grad()
    return time.process_time() - started


@pytest.mark.parametrize("words", [8, 128, 368])
def test_sharing_a_prefix_is_faster(policy, words):
    batch = batch_of(words)
    shape = (NUM_CLIPS, NUM_GENERATIONS, LENGTH)
    completions = TokenBatch(torch.randint(20, 250, shape), torch.ones(shape))
    prompt_tokens = int(policy.embed_prompts(batch).mask.shape[1])
    pairs = [
        tuple(update_seconds(policy, batch, completions, share_prefix=share) for share in (False, True))
        for _ in range(ROUNDS)
    ][2:]
    ratio = statistics.median(repeated / shared for repeated, shared in pairs)
    print(f"\nprompt of {prompt_tokens} tokens: repeated / shared update = {ratio:.2f}x CPU time")
    record = Path("outputs", "bench").absolute() / "share_prefix.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(record.read_text()) if record.is_file() else {}
    record.write_text(json.dumps({**known, str(prompt_tokens): round(ratio, 3)}, indent=2) + "\n")
    assert ratio > 1.0


def kept_bytes(policy, batch: ClipBatch, completions: TokenBatch, *, share_prefix: bool) -> int:
    """Return the bytes that the graph of an update's forward pass keeps, weights left out."""
    policy.engine.share_prefix = share_prefix
    weights = {param.untyped_storage().data_ptr() for param in policy.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = policy.per_token_logps(batch, completions).mean()
    assert loss.isfinite()
    return sum(kept.values())


def test_sharing_892_media_positions(humanomni):
    shape = (1, NUM_GENERATIONS, 64)
    completions = TokenBatch(torch.randint(20, 250, shape), torch.ones(shape))
    features = {"video": torch.randn(1, 8, 196, 64), "audio": torch.randn(1, 500, 64)}
    batch = dataclasses.replace(toy_batch(1), frames=None, waveforms=None, features=features)
    humanomni.fusion.requires_grad_(False)  # its pass is the same in both
    seconds = [
        [update_seconds(humanomni, batch, completions, share_prefix=share) for share in (False, True)] for _ in range(4)
    ][1:]
    ratio = statistics.median(repeated / shared for repeated, shared in seconds)
    repeated, shared = (kept_bytes(humanomni, batch, completions, share_prefix=share) for share in (False, True))
    prompt_tokens = len(humanomni.prompt_ids(batch)[0])
    print(
        f"\nHumanOmni's prompt of {prompt_tokens} tokens, {NUM_GENERATIONS} completions of 64: repeated / shared "
        f"= {ratio:.2f}x CPU time, {repeated / shared:.2f}x memory, {repeated >> 20} to {shared >> 20} MiB"
    )
    assert prompt_tokens > 892
    assert min(ratio, repeated / shared) > 1.0
