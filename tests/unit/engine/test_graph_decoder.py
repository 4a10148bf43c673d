"""The decoder for CUDA: how many kernels a token takes, and what its joined and low-rank products are."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from affectgpt_r1.engine import graph_decoder
from affectgpt_r1.engine.base import SpecialTokens
from affectgpt_r1.engine.fused_decoder import _join_linears, join_weights
from affectgpt_r1.engine.fused_layers import fuse_layers
from affectgpt_r1.engine.graph_decoder import GraphDecoder, StaticKVCache, decodes_by_graph, say_once
from affectgpt_r1.engine.varlen_attention import PackedLengths
from affectgpt_r1.policy.backbone import add_lora, build_language_model
from affectgpt_r1.policy.launches import CountedLaunches, count_token, launches_per_token
from affectgpt_r1.types import Sampling

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def make_model(layers=2, dtype="bfloat16", model_type="qwen2"):
    torch.manual_seed(0)
    sizes = {"hidden_size": 112, "intermediate_size": 64, "num_attention_heads": 14, "num_key_value_heads": 2}
    settings = {"model_type": model_type, "dtype": dtype, "num_hidden_layers": layers, **sizes}
    model = build_language_model(2048, settings | {"tie_word_embeddings": False}).eval()
    add_lora(model, r=16, alpha=24, dropout=0.0, target_modules=PROJECTIONS)
    for name, weight in model.named_parameters():
        if "lora_B" in name or "bias" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def test_a_token_of_28_layers_with_adapters_takes_at_most_1000_kernels():
    """Counted as CUDA would dispatch them; the modules' own passes take 2,720."""
    counted = count_token(make_model(layers=28))
    assert counted.counts["_flash_attention_forward"] == counted.counts["_fused_rms_norm"] - 1 == 2 * 28
    assert 2 * 28 < counted.total() <= 1000
    assert launches_per_token(make_model(layers=28)) == counted.total()  # what `plan` says, from two layers


def test_joined_frozen_weights_are_parts_of_one_tensor_and_products_stay_equal():
    model = make_model(dtype="float32")
    mixer = model.model.layers[1].self_attn
    modules = [mixer.q_proj, mixer.k_proj, mixer.v_proj]
    inputs = torch.randn(5, 112)
    with torch.no_grad():
        expected = torch.cat([module(inputs) for module in modules], -1)
        with torch.inference_mode():
            join_weights(model)
        assert not mixer.q_proj.base_layer.weight.is_inference()
        address = mixer.q_proj.base_layer.weight.data_ptr()
        joined = _join_linears(modules)
        assert joined.weight.data_ptr() == mixer.q_proj.base_layer.weight.data_ptr() == address
        assert joined.low_rank[1].shape == (48, 112 + 2 * 16)
        torch.testing.assert_close(joined(inputs), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.cat([module(inputs) for module in modules], -1), expected, atol=0, rtol=0)
        mixer.k_proj.base_layer.weight.requires_grad_(True)
        moved = mixer.v_proj.base_layer.weight
        moved.data = moved.detach().clone()  # as where a module moves to another device
        assert _join_linears(modules).weight.data_ptr() != address
        assert moved.untyped_storage().nbytes() == moved.nbytes


def varlen_forward(query, key, value, queries, keys, *, causal, scale, key_lengths):
    """As FlashAttention's varlen forward pass with fewer keys than there is room for."""
    assert not causal
    assert key_lengths.dtype == queries.cu_seqlens.dtype == keys.cu_seqlens.dtype == torch.int32
    assert len(key_lengths) == len(queries.cu_seqlens) - 1 == len(keys.cu_seqlens) - 1
    output, normalizer = torch.empty_like(query), query.new_empty(query.shape[1], len(query))
    for number, length in enumerate(key_lengths.tolist()):
        rows = slice(*queries.cu_seqlens[number:][:2].tolist())
        start, end = keys.cu_seqlens[number:][:2].tolist()
        assert (rows.stop - rows.start, end - start) == (queries.max_seqlen, keys.max_seqlen)
        assert 0 < length <= end - start
        scores = torch.einsum("qhd,khd->hqk", query[rows], key[start : start + length]) * scale
        normalizer[:, rows] = scores.logsumexp(-1)
        output[rows] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[start : start + length])
    return output, normalizer


@pytest.mark.parametrize("kernel", ["flash", "plain", "flex", "flash of CUDA"])
def test_each_kernel_attends_alike(kernel, monkeypatch):
    """Two prompts, three completions of each, two buckets; against one softmax in double precision."""
    torch.manual_seed(0)
    prompts, steps = PackedLengths([5, 3], CPU), 3
    before = torch.randn(2, prompts.total, 2, 16)
    cache = StaticKVCache(prompts, {0: tuple(before)}, 4, 3, 4, torch.float32, kernel.partition(" ")[0])
    cache._reads_lengths = kernel == "flash of CUDA"
    monkeypatch.setattr(graph_decoder, "varlen_forward", varlen_forward)
    query, key, value = torch.randn(steps, 6, 4, 16), *torch.randn(2, steps, 6, 2, 16)
    for step in range(steps):
        cache.bucket = 2 if step < 2 and not cache._reads_lengths else 4
        # FlexAttention takes a second a call to get ready.
        cache._kernel = "plain" if kernel == "flex" and step < 2 else kernel
        cache.begin()
        found = cache.attend(0, query[step], key[step], value[step], 0.25)
        cache.place.add_(1)
        for row in range(6):
            own = slice(*prompts.cu_seqlens[row // 3 :][:2].tolist())
            keys, values = (
                torch.cat([shared[own], new[: step + 1, row]]).repeat_interleave(2, 1).double()
                for shared, new in zip(before, (key, value), strict=True)
            )
            weights = (torch.einsum("hd,khd->hk", query[step, row].double(), keys) * 0.25).softmax(-1)
            expected = torch.einsum("hk,khd->hd", weights, values)
            torch.testing.assert_close(found[row].double(), expected, atol=1e-5, rtol=0)


def test_adapters_in_half_precision_are_pefts_to_rounding():
    """Outputs and gradients against single precision: as near as PEFT's own layer, with fewer casts."""
    layers = {}
    for name in ("ours", "peft", "exact"):
        model = make_model(dtype="float32" if name == "exact" else "bfloat16")
        if name == "ours":
            fuse_layers(model)
        layers[name] = model.model.layers[0].mlp.gate_proj
    layers["exact"].base_layer.weight.data.copy_(layers["ours"].base_layer.weight)
    outward, inputs = torch.randn(40, 64), torch.randn(40, 112).bfloat16()
    found, casts = {}, {}
    for name, layer in layers.items():
        for kind in ("lora_A", "lora_B"):
            getattr(layer, kind).default.weight.data.copy_(getattr(layers["exact"], kind).default.weight)
        own = inputs.to(layer.base_layer.weight.dtype).requires_grad_()
        with CountedLaunches() as counted, torch.autocast("cpu", torch.bfloat16, enabled=name != "exact"):
            output = layer(own)
        casts[name] = counted.counts["_to_copy"]
        wanted = [own, layer.lora_A.default.weight, layer.lora_B.default.weight]
        found[name] = [output, *torch.autograd.grad(output, wanted, outward.to(output.dtype))]
    for ours, theirs, exact in zip(found["ours"], found["peft"], found["exact"], strict=True):
        assert ours.dtype == theirs.dtype
        error = ((ours - exact).norm() / exact.norm()).item()
        assert error <= 0.005
        assert error <= 1.1 * ((theirs - exact).norm() / exact.norm()).item()
    assert casts["ours"] <= casts["peft"] - 2


def test_a_graph_is_for_cuda_known_layers_and_free_memory(monkeypatch, caplog):
    model, prompts = make_model(), PackedLengths([4], CPU)
    say_once.cache_clear()
    assert not decodes_by_graph(model, torch.empty(1, 112), prompts, 8, 200)
    assert caplog.messages == []
    with FakeTensorMode():
        states = torch.empty(1, 112, device=CUDA)
    for name, value in (("memory_reserved", 0), ("memory_allocated", 0), ("mem_get_info", (1 << 10, 0))):
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert not decodes_by_graph(model, states, prompts, 8, 200)
    assert not decodes_by_graph(model, states, prompts, 8, 200)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 0))
    assert decodes_by_graph(model, states, prompts, 8, 200)
    model.model.layers[0].mlp.act_fn = torch.nn.GELU()
    assert not decodes_by_graph(model, states, prompts, 8, 200)
    said = "Decoding launches each kernel by itself, without a CUDA graph, since"
    assert caplog.messages == [
        f"{said} it needs 0.0 GiB and 0.0 are free",
        f"{said} the layers of Qwen2ForCausalLM are not computed by it, or not as they are set up",
    ]


def test_a_step_that_cannot_be_captured_runs_without_a_graph(monkeypatch, caplog):
    """CUDA's graphs are simulated: the first step warms up, the second is captured, and its failure is said once."""
    say_once.cache_clear()
    model, prompts = make_model(dtype="float32"), PackedLengths([4], CPU)
    cache = {layer: (torch.randn(4, 2, 8), torch.randn(4, 2, 8)) for layer in range(2)}
    arguments = (
        torch.randn(1, 112),
        prompts,
        cache,
        2,
        Sampling(max_completion_length=6),
        SpecialTokens([2047], [], 0),
    )
    log = []

    class Graph:
        def replay(self):
            log.append("replayed")
            decoder.advance()

    class Capture:
        def __init__(self, graph, capture_error_mode):
            log.append("captured")

        def __enter__(self):
            self.before = GraphDecoder.advance
            GraphDecoder.advance = lambda self: None

        def __exit__(self, *_):
            GraphDecoder.advance = self.before

    def fail(graph, **_):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    drawn = []
    for capture in (Capture, fail, None):
        monkeypatch.setattr(torch.cuda, "graph", capture)
        decoder = GraphDecoder(model, *arguments)
        decoder.captures = capture is not None
        drawn.append(decoder.generate(torch.Generator().manual_seed(3)).ids)
    assert log == ["captured", *["replayed"] * 4]
    assert drawn[0].equal(drawn[2])
    assert drawn[1].equal(drawn[2])
    assert [message.split("since ")[1] for message in caplog.messages] == [
        "its step cannot be captured (operation not permitted)"
    ]
    assert graph_decoder.STEPS_BETWEEN_LOOKS == 8
