"""The fused decoding step against transformers' own pass over the full text, in double precision."""

from __future__ import annotations

import copy

import pytest
import torch

from affectgpt_r1.engine.base import EmbeddedPrompts
from affectgpt_r1.engine.fast import Decoder, prefill_prompts
from affectgpt_r1.engine.fused_decoder import merged_weight, supports_fused_decode
from affectgpt_r1.engine.fused_linear_logps import InputEmbedding
from affectgpt_r1.engine.prefix_attention import use_prefix_attention
from affectgpt_r1.policy.backbone import add_lora, build_language_model

VOCABULARY, HIDDEN, LENGTHS, NUM_GENERATIONS, STEPS = 70, 32, (5, 9), 3, 6
RUNNING = torch.tensor([6, 2, 4, 6, 1, 3]).unsqueeze(-1) > torch.arange(STEPS)  # which completions, at which step
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    "qwen2": {"model_type": "qwen2"},
    "grouped": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 12},
    "llama": {"model_type": "llama", "num_key_value_heads": 1},
    "biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 12},
    "stretched": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
    },
}


def make_model(lora: dict[str, object] | None = None, **kind: object):
    torch.manual_seed(0)
    settings = {
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        **kind,
    }
    model = build_language_model(VOCABULARY, settings).eval()
    use_prefix_attention(model)
    if lora is not None:
        add_lora(model, dropout=0.0, **lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
            else:
                weight.add_(torch.randn_like(weight) * 0.1)
    return model


def random_prompts(model) -> EmbeddedPrompts:
    longest = max(LENGTHS)
    mask = (torch.arange(longest) >= longest - torch.tensor(LENGTHS).unsqueeze(-1)).long()
    embeds = torch.randn(2, longest, HIDDEN, generator=torch.Generator().manual_seed(1))
    return EmbeddedPrompts(embeds, mask, InputEmbedding(model))


@torch.no_grad()
def decoded(model, prompts, tokens) -> list[torch.Tensor]:
    """Logits after each token, of the completions that still run."""
    decoder = Decoder(model, prefill_prompts(model, prompts), NUM_GENERATIONS, STEPS)
    assert (decoder._fused is not None) == supports_fused_decode(model)
    running = [RUNNING[:, step].nonzero().squeeze(-1) for step in range(STEPS)]
    outputs = [decoder.advance(tokens[rows, step], rows) for step, rows in enumerate(running)]
    return [output if decoder.head is None else decoder.head.logits(output) for output in outputs]


@torch.no_grad()
def in_double_precision(model, prompts, tokens) -> list[torch.Tensor]:
    model = copy.deepcopy(model).double()
    embeds = prompts.embeds.double().repeat_interleave(NUM_GENERATIONS, 0)
    mask = torch.cat([prompts.mask.repeat_interleave(NUM_GENERATIONS, 0), torch.ones_like(tokens)], 1)
    embeds = torch.cat([embeds, model.get_input_embeddings()(tokens)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False).logits
    return [logits[RUNNING[:, step], max(LENGTHS) + step] for step in range(STEPS)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "lora",
    [None, {"r": 1, "alpha": 3, "target_modules": ["q_proj"]}, {"r": 7, "alpha": 5, "target_modules": PROJECTIONS}],
)
def test_every_step_equals_a_pass_over_the_full_text(kind, lora):
    model = make_model(lora, **KINDS[kind])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert supports_fused_decode(model)
    prompts, tokens = (
        random_prompts(model),
        torch.randint(VOCABULARY, (6, STEPS), generator=torch.Generator().manual_seed(2)),
    )
    steps = decoded(model, prompts, tokens)
    for mine, expected in zip(steps, in_double_precision(model, prompts, tokens), strict=True):
        assert expected.abs().max() > 0.5
        torch.testing.assert_close(mine.double(), expected, atol=1e-5, rtol=0)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def change_activation(model) -> None:
    model.model.layers[1].mlp.act_fn = torch.nn.GELU()


def shorten_attention(model) -> None:
    model.model.layers[2].self_attn.sliding_window = 4


def use_half_precision(model) -> None:
    model.model.layers[0].mlp.bfloat16()


def halve_a_norm(model) -> None:
    model.model.layers[1].post_attention_layernorm.bfloat16()


def halve_the_last_norm(model) -> None:
    model.model.norm.bfloat16()


def replace_layer_norm(model) -> None:
    model.model.layers[0].input_layernorm = torch.nn.RMSNorm(HIDDEN)


def grow_with_length(model) -> None:
    model.model.rotary_emb.rope_type = "dynamic"


def replace_projection(model) -> None:
    model.model.layers[0].mlp.up_proj = torch.nn.Sequential(model.model.layers[0].mlp.up_proj)


@pytest.mark.parametrize(
    "change",
    [
        change_activation,
        shorten_attention,
        use_half_precision,
        halve_a_norm,
        halve_the_last_norm,
        replace_layer_norm,
        grow_with_length,
        replace_projection,
    ],
)
def test_other_layers_run_by_their_own_modules(change):
    model = make_model()
    change(model)
    assert not supports_fused_decode(model)


def test_other_families_and_adapters_switched_off_run_by_their_own_modules():
    assert not supports_fused_decode(make_model(model_type="mistral", sliding_window=None))
    model = make_model({"r": 2, "alpha": 2, "target_modules": ["q_proj"]})
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.enable_adapters(False)
    assert not supports_fused_decode(model)


def test_adapters_are_added_to_a_copy_of_the_weight():
    model = make_model({"r": 2, "alpha": 6, "target_modules": ["q_proj"]})
    layer = model.model.layers[0].self_attn.q_proj
    inputs = torch.randn(5, HIDDEN)
    expected = layer(inputs) - layer.base_layer.bias
    torch.testing.assert_close(inputs @ merged_weight(layer).T, expected, atol=1e-5, rtol=0)
