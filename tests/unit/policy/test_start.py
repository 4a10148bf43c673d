"""Processes load weights at the same time, and each holds little more than its own share of them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from transformers import AutoModelForCausalLM

from affectgpt_r1.policy.backbone import build_language_model
from affectgpt_r1.policy.pretrained import weights_on
from helpers.forked import run_processes

MIB = 2**20
SIZES: dict[str, Any] = {
    "dtype": "bfloat16",
    **{"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "vocab_size": 32_000},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
}
SMALL = {**SIZES, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}
BEYOND = 0.13  # of the share: 2 GB beside the 15.2 GB of a 7B model
CONSTANT = 8 * MIB  # of Python and libraries, whatever the size
SECONDS = 60  # that a rank waits for the others


def resident(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


def model_of(folder: Path, sizes: dict[str, Any], *, loads: bool) -> Any:
    if not loads:
        return build_language_model(None, sizes)
    with weights_on(torch.device("cpu")):
        return build_language_model(None, {"pretrained": str(folder), "dtype": "bfloat16"})


def join(rank: int, size: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Join the group, and load no weights before every rank is about to load them: ranks that take turns time out."""
    store = distributed.FileStore(str(folder / "meeting"), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=SECONDS))
    from_pretrained = AutoModelForCausalLM.from_pretrained

    def load(*arguments: Any, **options: Any) -> Any:
        distributed.barrier()
        return from_pretrained(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)


def build(rank: int, size: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if size > 1:
        join(rank, size, folder, monkeypatch)
    model_of(folder / "small", SMALL, loads=size > 1)  # what libraries load at their first use is not a weight
    Path("/proc/self/clear_refs").write_text("5")  # the highest use so far is forgotten
    before = resident("VmRSS")
    model = model_of(folder / "model", SIZES, loads=size > 1)
    total = sum(float(weight.sum()) for weight in model.parameters())  # weights are read, not only mapped
    found = {
        "beyond": resident("VmHWM") - before,
        "share": sum(weight.nbytes for weight in model.parameters()),
        "total": total,
        "dtypes": {str(tensor.dtype) for tensor in model.parameters()},
        "buffers": {str(tensor.dtype) for tensor in model.buffers()},
    }
    torch.save(found, folder / f"{rank}.pt")
    if size > 1:
        distributed.destroy_process_group()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_process_holds_its_share_and_little_more(size, tmp_path, monkeypatch):
    """One draws fresh weights, several load a folder's; in no moment are there weights in single precision."""
    if size > 1:
        for name, sizes in (("model", SIZES), ("small", SMALL)):
            build_language_model(None, sizes).save_pretrained(tmp_path / name)
    tasks = [partial(build, rank, size, tmp_path, monkeypatch) for rank in range(size)]
    assert run_processes(tasks, 300) == [0] * size
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(size)]
    for one in found:
        assert one["share"] > 45 * MIB
        assert one["beyond"] <= (1 + BEYOND) * one["share"] + CONSTANT
        assert one["dtypes"] == {"torch.bfloat16"}
        assert one["buffers"] == {"torch.float32"}  # the angles of rotary positions
    assert len({one["total"] for one in found}) == 1
