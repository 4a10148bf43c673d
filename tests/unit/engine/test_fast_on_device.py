"""The fast engine on a simulated accelerator: no chunked head and no fused decoder, which are for the CPU."""

from __future__ import annotations

import torch

from affectgpt_r1.data.collate import batch_to_device
from affectgpt_r1.engine.fast import Decoder, prefill_prompts
from helpers.device_checks import on_device


def test_decoding_uses_none_of_the_kernels_for_the_cpu(device, tiny_policy, make_batch):
    ours, batch = on_device(tiny_policy, device), make_batch(2)
    for policy, is_host in ((tiny_policy, True), (ours, False)):
        with torch.no_grad():
            prompts = policy.embed_prompts(batch_to_device(batch, policy.device))
            decoder = Decoder(policy.language_model, prefill_prompts(policy.language_model, prompts), 2, 4)
        assert (decoder.head is not None) is is_host
        assert (decoder._fused is not None) is is_host
