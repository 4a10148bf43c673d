"""Check numbers, speed and memory of the paper's model on this machine's GPU, within minutes and without its weights.

The weights are random: times and memory do not depend on them, and errors are measured against double precision.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from affectgpt_r1.config.check_parts import Limit, Part
from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.config.device_tests import device_test_files, run_device_tests
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.engine.fast import prefill_prompts
from affectgpt_r1.engine.fused_attention import AttentionKernel
from affectgpt_r1.engine.graph_decoder import GraphDecoder
from affectgpt_r1.engine.varlen_attention import PackedLengths, attend_to_prefix
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.build_policy import ENGINE_KEYS, build_policy
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.size import Workload, measure_model, memory_gib
from affectgpt_r1.policy.tokenizer import build_tokenizer
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import ClipBatch, Sampling, TokenBatch

log = logging.getLogger(__name__)

QUESTION = (
    "Please recognize emotional states of the character. Output the thinking process in <think> </think> and final "
    "answer in <answer> </answer> tags."
)
SUBTITLE = "I did not expect to see you here again after all this time, really."
KERNELS: tuple[AttentionKernel, ...] = ("flash", "plain", "flex")
OFFSETS = (0, 50, 1000)  # that biases such as Qwen2's add to scaled attention logits
TINY: dict[str, dict[str, int]] = {
    "language_model": {"vocab_size": 2048, "hidden_size": 112, "intermediate_size": 64, "num_hidden_layers": 3},
    "video_encoder": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "audio_encoder": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
}


class GPUCheck:
    """Runs the parts on one device, each while time is left.

    Args:
        tiny: Run small shapes on the CPU, to check the check.
        budget: Seconds for everything.
    """

    def __init__(self, *, tiny: bool, budget: float) -> None:
        if not tiny and not torch.cuda.is_available():
            raise ConfigError("no CUDA device is visible: run this on the machine with the GPU, or give --tiny")
        self.tiny, self.budget = tiny, budget
        self.device = torch.device("cpu" if tiny else "cuda")
        self._started = time.monotonic()
        self._model: dict[str, Any] = {}
        self.policy: MultimodalPolicy
        self.tokens_per_second = 0.0  # of the graph decoder

    def run(self, only: Sequence[str] = ()) -> list[Part]:
        """Return what the parts found; a part that raises is wrong, and the next one runs."""
        parts = []
        for name, (needed, check) in PARTS.items():
            if only and name not in only and name != "build":
                continue
            part = Part(name)
            left = self.budget - (time.monotonic() - self._started)
            if left < needed * (not self.tiny):
                part.skipped = f"{left:.0f} s are left, and it may need {needed}"
            else:
                started = time.monotonic()
                try:
                    check(self, part)
                except Exception as error:  # the other parts still say something
                    part.error = f"{type(error).__name__}: {error}"
                    log.exception("The part %s failed", name)
                part.seconds = time.monotonic() - started
                gc.collect()
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            parts.append(part)
        return parts

    def describe(self) -> dict[str, str]:
        """Return what the numbers were measured on."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return {"device": name, "torch": torch.__version__, "transformers": version("transformers")}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _peak(self) -> float:
        """Return the GiB that were allocated at most since the last call."""
        if self.device.type != "cuda":
            return 0.0
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return float(peak)

    @contextmanager
    def _mixed(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16):
            yield

    def _clips(self, count: int, policy: MultimodalPolicy | None = None) -> ClipBatch:
        policy = policy or self.policy
        encoders, names = policy.encoders, tuple(f"clip{number}" for number in range(count))
        sizes = {"video": encoders.video.feature_size, "audio": encoders.audio.feature_size}
        return ClipBatch(
            names,
            (SUBTITLE,) * count,
            (("happy", "calm"),) * count,
            ("because " * 40,) * count,
            (("video", "audio", "text"),) * count,
            features={name: torch.randn(count, 8, size).to(policy.device) for name, size in sizes.items()},
        )

    def _trained(self) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        trained = list(self.policy.trainable_parameters().values())
        return trained, torch.optim.AdamW(trained, lr=1e-6, fused=self.device.type == "cuda")

    def _limit_memory(self, part: Part, work: Workload, kind: Any, name: str, peak: float) -> None:
        model = {key: value for key, value in self._model.items() if key not in ("tokenizer", *ENGINE_KEYS)}
        planned = memory_gib(measure_model(None, **model), work, kind, "ddp")
        part.measured[f"{name}/peak_gib"], part.measured[f"{name}/planned_gib"] = peak, planned
        if self.device.type == "cuda":
            part.limits.append(Limit(f"{name}: memory off its plan by", abs(peak / planned - 1), 0.15))

    def attention(self, part: Part) -> None:
        """Compare attention to prompt and completion in bfloat16 with double precision."""
        prompts, groups, length, heads, key_heads, size = (2, 2, 24, 4, 2, 32) if self.tiny else (2, 4, 256, 28, 4, 128)
        packed = PackedLengths([length] * prompts, self.device)
        own = PackedLengths([length - number for number in range(prompts * groups)], self.device)
        for offset in OFFSETS:
            torch.manual_seed(0)
            shapes = [(own.total, heads), *[(own.total, key_heads)] * 2, *[(packed.total, key_heads)] * 2]
            inputs = [torch.randn(*shape, size, device=self.device) for shape in shapes]
            for position in (0, 1, 3):  # queries and keys
                inputs[position][..., :8] += (offset * size**0.5 / 8) ** 0.5
            halves = [value.bfloat16().requires_grad_() for value in inputs]
            query, key, value, prompt_key, prompt_value = halves
            doubles = [value.detach().double().requires_grad_() for value in halves]
            expected = _plain_attention(doubles, packed, own, size**-0.5)
            weights = torch.randn_like(expected)
            exact = torch.autograd.grad(expected, doubles, weights)
            for kernel in KERNELS if self.device.type == "cuda" else KERNELS[:2]:
                for _ in range(2):  # kernels are compiled in the first
                    started = self._now()
                    output = attend_to_prefix(
                        query, key, value, prompt_key, prompt_value, packed, own, size**-0.5, kernel
                    )
                    found = torch.autograd.grad(output, halves, weights.to(output.dtype))
                    seconds = self._now() - started
                part.measured[f"{kernel}: milliseconds at logits +{offset}"] = 1e3 * seconds
                self._limit_errors(
                    part, f"{kernel}: error of", offset, [(output, expected), *zip(found, exact, strict=True)]
                )

    def _limit_errors(self, part: Part, what: str, offset: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        names = ("output", "d query", "d key", "d value", "d prompt key", "d prompt value")
        for name, (found, exact) in zip(names, pairs, strict=True):
            title, error = f"{what} {name} at logits +{offset}", _relative_error(found, exact)
            # Gradients at large logits are differences of nearly equal numbers, in every kernel.
            if name == "output" or offset == 0:
                part.limits.append(Limit(title, error, 0.005 if name == "output" else 0.02))
            else:
                part.measured[title] = error

    def _build(self, name: str) -> tuple[MultimodalPolicy, dict[str, Any]]:
        """Build a policy of ``configs/model`` with random weights on the default device."""
        model: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / name))
        del model["_target_"]
        for part in TINY:
            model[part].pop("pretrained", None)
            if self.tiny:
                model[part].update(TINY[part])
        template = PromptTemplate(QUESTION, True)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = Path(folder) / "tokenizer.json"
            build_tokenizer(["happy sad angry calm"] * 8, template.phrases(), 400, tokenizer)
            model.update(weights=None, tokenizer=str(tokenizer))
            if self.tiny:
                model["fusion_hidden_size"] = 16
            torch.manual_seed(0)
            policy = build_policy(**model, template=template)
        policy.disable_dropout()
        return policy, model

    def demo(self, part: Part) -> None:
        """Draw and train with the demo's model here and on the CPU, from the same weights, in single precision."""
        losses: list[float] = []
        drawn: list[Tensor] = []
        clips = 2 if self.tiny else 8
        sampling = Sampling(max_completion_length=4 if self.tiny else 64)
        for device in ("cpu", self.device.type):
            policy = self._build("tiny.yaml")[0].to(device)
            batch = self._clips(clips, policy)
            drawn.append(policy.generate(batch, 4, sampling, torch.Generator().manual_seed(0)).completions.ids.cpu())
            optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=1e-3)
            for _ in range(2 if self.tiny else 30):
                loss = SFTStage().training_step(policy.train(), batch, seed=1).loss
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            losses.append(float(loss.detach()))
        length = min(ids.shape[-1] for ids in drawn)
        differing = (drawn[0][..., :length] != drawn[1][..., :length]).double().mean()
        # One number that falls on the border of two tokens changes the rest of its completion.
        part.limits.append(Limit("tokens that differ from the CPU's", float(differing), 0.05))
        part.limits.append(Limit("loss off the CPU's by", abs(losses[1] / losses[0] - 1), 0.02))

    def device_tests(self, part: Part) -> None:
        """Run the tests that compare a device with the CPU, in a process of their own; with ``tiny`` a file of them."""
        files = device_test_files()
        if not files or find_spec("pytest") is None:
            part.skipped = f"not run: {'pytest is not installed' if files else 'no tests here'}"
            return
        files = files[:1] if self.tiny else files  # of the engine
        left = max(1.0, self.budget - (time.monotonic() - self._started))
        suite = run_device_tests(files, "" if self.tiny else "cuda", left)
        part.measured |= {"tests": suite.tests, "skipped": suite.skipped}
        part.limits.append(Limit("tests that fail", len(suite.failed), 0))
        part.limits.append(Limit("tests", suite.tests, 1, at_most=False))
        part.measured |= {f"failed: {name}": 1.0 for name in suite.failed}

    def build(self, part: Part) -> None:
        """Build the model on the device."""
        started = self._now()
        with torch.device(self.device):
            self.policy, self._model = self._build("affectgpt_7b.yaml")
        part.measured |= {"seconds": self._now() - started, "gib": self._peak()}

    def sft(self, part: Part) -> None:
        """Time steps of supervised fine-tuning."""
        trained, optimizer = self._trained()
        self.policy.train()
        for clips in (1,) if self.tiny else (3, 12):
            batch, seconds, loss = self._clips(clips), [], torch.zeros(())
            self._peak()
            for _ in range(2 if self.tiny else 5):
                started = self._now()
                with self._mixed():
                    loss = SFTStage().training_step(self.policy, batch, seed=1).loss
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                seconds.append(self._now() - started)
            tokens, prompt = self.policy.encode_targets(batch).ids.shape[-1], self._prompt_tokens(batch)
            part.measured[f"{clips} clips/seconds"] = min(seconds)
            part.limits.append(Limit(f"{clips} clips: loss", float(loss.detach()), 20.0))
            work = Workload(clips, 8, prompt, tokens, False, False, True, False, 1)
            self._limit_memory(part, work, "sft", f"{clips} clips", self._peak())

    def grpo(self, part: Part) -> None:
        """Time a step of GRPO, all its micro-batches sampled in one rollout."""
        trained, optimizer = self._trained()
        lengths = (2, 2, 6, 2) if self.tiny else (16, 8, 200, 8)
        clips, generations, length, micro_batches = lengths
        rewards: dict[str, Any] = {"even": _even_letters}
        stage = GRPOStage(
            WeightedRewards(rewards, {"even": 1.0}),
            load_lexicon("bundled"),
            Sampling(temperature=1.0, max_completion_length=length),
            num_generations=generations,
            steps_per_generation=micro_batches,
        )
        stage.accumulate_grad_batches = micro_batches
        self.policy.train()
        batch, nothing = self._clips(clips), ClipBatch((), (), (), (), ())
        self._peak()
        for attempt in range(2):  # kernels are chosen, and memory is reserved, in the first
            started = self._now()
            for number in range(micro_batches):
                with self._mixed():
                    output = stage.training_step(self.policy, nothing if number else batch, seed=attempt)
                torch.autograd.backward(output.loss)
                if not number:
                    logs = output.logs
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds = self._now() - started
        rate = float(_value(logs["tokens_per_second"]))
        part.measured |= {"seconds": seconds, "tokens_per_second": rate}
        mean, largest = (float(_value(logs[f"sampling/sampling_logp_difference/{name}"])) for name in ("mean", "max"))
        part.measured["largest difference of the sampler's log-probs"] = largest
        part.limits.append(Limit("mean difference of the sampler's log-probs", mean, 0.05))
        if not self.tiny:
            part.limits.append(Limit("tokens/s of the rollout", rate, 8000, at_most=False, is_aim=True))
            part.limits.append(Limit("seconds of a step", seconds, 8.0, is_aim=True))
        prompt = self._prompt_tokens(batch)
        work = Workload(
            clips // micro_batches,
            generations,
            prompt,
            length,
            False,
            False,
            True,
            True,
            1,
            steps_per_generation=micro_batches,
        )
        self._limit_memory(part, work, "grpo", f"{clips} clips", self._peak())

    @torch.no_grad()
    def decoding(self, part: Part) -> None:
        """Draw by a captured graph, and by the same steps without one; count what a step launches."""
        self.policy.eval()
        batch, model = self._clips(2 if self.tiny else 16), self.policy.language_model
        drawn: list[Tensor] = []
        sampling = Sampling(max_completion_length=4 if self.tiny else 100)
        with self._mixed():
            prefill = prefill_prompts(model, self.policy.embed_prompts(batch))
        endless = self.policy.special_tokens._replace(stop_ids=())
        given = (prefill.states, prefill.attention.prompts, prefill.attention.cache, 8, sampling, endless)
        for name in ("the same steps", "graph"):
            started = self._now()
            decoder = GraphDecoder(model, *given)
            decoder.captures &= name == "graph"
            drawn.append(decoder.generate(torch.Generator().manual_seed(0)).ids)
            self.tokens_per_second = drawn[0].numel() / (self._now() - started)
            part.measured[f"{name}: tokens/s"] = self.tokens_per_second
        if self.device.type == "cuda":
            part.limits.append(Limit("a step is captured", float(decoder.captures), 1.0, at_most=False))
        part.limits.append(Limit("tokens that the graph changes", float((drawn[0] != drawn[1]).double().mean()), 0.0))
        if self.device.type == "cuda":
            decoder = GraphDecoder(model, *given)
            for _ in range(3):
                decoder.advance()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
                decoder.advance()
                self._now()
            counts = {event.key: event.count for event in recorded.key_averages()}
            launches = sum(count for name, count in counts.items() if "LaunchKernel" in name)
            part.limits.append(Limit("kernel launches a token", launches, 1000, is_aim=True))

    def baseline(self, part: Part) -> None:
        """Time transformers' generate on repeated prompts, and an update that repeats each prompt."""
        clips, generations, length = (2, 2, 6) if self.tiny else (16, 8, 60)
        batch, model = self._clips(clips), self.policy.language_model
        self.policy.eval()
        with torch.no_grad(), self._mixed():
            prompts = self.policy.embed_prompts(batch)
            started = self._now()
            ids: Tensor = model.generate(
                inputs_embeds=prompts.embeds.repeat_interleave(generations, 0),
                attention_mask=prompts.mask.repeat_interleave(generations, 0),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                pad_token_id=0,
            )
            seconds = self._now() - started
        rate = clips * generations * length / seconds
        part.measured["transformers generate/tokens_per_second"] = rate
        if self.tokens_per_second and not self.tiny:
            times = self.tokens_per_second / rate
            part.limits.append(Limit("the graph's tokens/s by generate's", times, 5.0, at_most=False, is_aim=True))
        batch = self._clips(2)
        drawn = ids[: 2 * generations, -length:].view(2, generations, -1)
        completions = TokenBatch(drawn, torch.ones_like(drawn).float())
        self.policy.train()
        for shared in (True, False):
            started = self._now()
            with self._shared(shared), self._mixed():
                torch.autograd.backward(self.policy.per_token_logps(batch, completions).mean())
            part.measured[f"update, prompts {'shared' if shared else 'repeated'}/seconds"] = self._now() - started
            self.policy.zero_grad()

    @torch.no_grad()
    def mismatch(self, part: Part) -> None:
        """Compare the log-probs of the sampler, of the shared and of the repeated pass for the same tokens."""
        self.policy.eval()
        batch = self._clips(2)
        sampling = Sampling(max_completion_length=6 if self.tiny else 64)
        with self._mixed():
            generator = torch.Generator().manual_seed(0)
            rollout = self.policy.generate(batch, 4, sampling, generator)
            shared = self.policy.per_token_logps(batch, rollout.completions)
            with self._shared(False):
                repeated = self.policy.per_token_logps(batch, rollout.completions)
        kept = rollout.completions.mask.bool()
        for name, first, second in (
            ("update - sampler", shared, rollout.per_token_logps),
            ("shared - repeated prompts", shared, repeated),
        ):
            part.limits.append(Limit(f"{name}: mean", float((first - second)[kept].abs().mean()), 0.05))
        part.limits.append(Limit("largest log-prob", float(rollout.per_token_logps[kept].max()), 1e-4))

    @contextmanager
    def _shared(self, shared: bool) -> Iterator[None]:
        engine: Any = self.policy.engine
        before, engine.share_prefix = engine.share_prefix, shared
        try:
            yield
        finally:
            engine.share_prefix = before

    def _prompt_tokens(self, batch: ClipBatch) -> int:
        with torch.no_grad():
            return int(self.policy.embed_prompts(batch).mask.sum(1).max())


PARTS: dict[str, tuple[int, Callable[[GPUCheck, Part], None]]] = {
    "attention": (20, GPUCheck.attention),
    "demo": (30, GPUCheck.demo),
    "device-tests": (60, GPUCheck.device_tests),
    "build": (60, GPUCheck.build),
    "sft": (40, GPUCheck.sft),
    "grpo": (120, GPUCheck.grpo),
    "decoding": (30, GPUCheck.decoding),
    "baseline": (60, GPUCheck.baseline),
    "mismatch": (40, GPUCheck.mismatch),
}
"""Parts by name, with the seconds that each may need."""


def as_json(check: GPUCheck, parts: Sequence[Part]) -> dict[str, Any]:
    """Return everything that was found as plain values."""
    found = [dataclasses.asdict(part) for part in parts]
    for part, values in zip(parts, found, strict=True):
        values["limits"] = [dataclasses.asdict(limit) | {"holds": limit.holds} for limit in part.limits]
    return {"machine": check.describe(), "tiny": check.tiny, "parts": found}


def _plain_attention(
    inputs: Sequence[Tensor], prompts: PackedLengths, completions: PackedLengths, scale: float
) -> Tensor:
    """Compute :func:`~affectgpt_r1.engine.varlen_attention.attend_to_prefix` completion by completion."""
    query, key, value, prompt_key, prompt_value = inputs
    outputs = []
    repeats, per_prompt = query.shape[1] // key.shape[1], completions.count // prompts.count
    ends, prompt_ends = completions.cu_seqlens.tolist(), prompts.cu_seqlens.tolist()
    for number, (start, end) in enumerate(pairwise(ends)):
        prompt = slice(*prompt_ends[number // per_prompt :][:2])
        keys, values = (
            torch.cat([shared[prompt], own[start:end]]).repeat_interleave(repeats, 1).transpose(0, 1)
            for shared, own in ((prompt_key, key), (prompt_value, value))
        )
        scores = query[start:end].transpose(0, 1) @ keys.transpose(1, 2) * scale
        later = torch.ones_like(scores[0], dtype=torch.bool).triu(1 + prompt.stop - prompt.start)
        outputs.append((scores.masked_fill(later, -torch.inf).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(outputs)


def _relative_error(value: Tensor, exact: Tensor) -> float:
    return float((value.detach().double() - exact.detach()).norm() / exact.detach().norm())


def _value(log_value: Any) -> Any:
    return getattr(log_value, "value", log_value)


def _even_letters(*, completions: Sequence[Any], **_: Any) -> list[float]:
    """Reward something that random weights differ in."""
    return [sum(ord(letter) % 2 == 0 for letter in each.text) / max(len(each.text), 1) for each in completions]
