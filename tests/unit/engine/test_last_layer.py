import pytest
import torch

from affectgpt_r1.engine.base import EmbeddedPrompts
from affectgpt_r1.engine.fast import prefill_prompts, prefix_states
from affectgpt_r1.engine.fused_layers import trim_last_layer
from affectgpt_r1.engine.fused_linear_logps import InputEmbedding
from affectgpt_r1.engine.prefix_attention import use_prefix_attention
from affectgpt_r1.types import TokenBatch

PROMPT_LENGTHS = [5, 3, 6]
COMPLETION_LENGTHS = [[4, 1], [2, 4], [3, 3]]


def language_model(family, key_heads):
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(0)
    classes = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
    }
    config, model = classes[family]
    settings = {"mistral": {"sliding_window": None}, "qwen3": {"head_dim": 6}}.get(family, {})
    return model(
        config(
            vocab_size=29,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=key_heads,
            **settings,
        )
    ).double()


def inputs(model, width):
    generator = torch.Generator().manual_seed(1)
    longest = max(PROMPT_LENGTHS)
    embeds = torch.randn(3, longest, width, dtype=torch.float64, generator=generator).requires_grad_()
    mask = torch.tensor([[0] * (longest - length) + [1] * length for length in PROMPT_LENGTHS])
    ids = torch.randint(29, (3, 2, 4), generator=generator)
    kept = torch.tensor([[[1.0] * length + [0.0] * (4 - length) for length in pair] for pair in COMPLETION_LENGTHS])
    return EmbeddedPrompts(embeds, mask, InputEmbedding(model)), TokenBatch(ids, kept)


def states_and_gradients(model, *, reuse):
    prompts, completions = inputs(model, 16)
    states = prefix_states(model, prefill_prompts(model, prompts) if reuse else prompts, completions)
    weights = torch.randn(states.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    (states * weights).sum().backward()
    return states.detach(), {
        "prompts": prompts.embeds.grad,
        **{name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None},
    }


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize(("family", "key_heads"), [("llama", 4), ("qwen2", 4), ("qwen2", 2), ("qwen3", 2)])
def test_a_trimmed_last_layer_gives_the_states_and_gradients_of_a_full_one(family, key_heads, reuse):
    model = language_model(family, key_heads)
    use_prefix_attention(model)
    whole, whole_gradients = states_and_gradients(model, reuse=reuse)
    trim_last_layer(model)
    trimmed, gradients = states_and_gradients(model, reuse=reuse)
    torch.testing.assert_close(trimmed, whole, atol=1e-7, rtol=0)
    assert set(gradients) == set(whole_gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole_gradients[name], atol=1e-6, rtol=1e-6)


def test_the_last_feed_forward_sees_prompt_ends_and_completions_only():
    model = language_model("qwen2", 4)
    use_prefix_attention(model)
    trim_last_layer(model)
    seen = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    prompts, completions = inputs(model, 16)
    prefix_states(model, prompts, completions)
    fed = sum(length - 1 for pair in COMPLETION_LENGTHS for length in pair)
    assert seen == [sum(PROMPT_LENGTHS) + fed, len(PROMPT_LENGTHS) + fed]


def test_a_layer_of_another_family_is_not_trimmed():
    model = language_model("mistral", 4)
    use_prefix_attention(model)
    before = model.model.layers[-1].forward
    trim_last_layer(model)
    assert model.model.layers[-1].forward == before
    states, _ = states_and_gradients(model, reuse=False)
    assert states.shape == (sum(map(sum, COMPLETION_LENGTHS)), 16)
