"""Print which of our files and functions one GRPO training step enters.

Run ``python tests/tools/trace_step.py [--engine reference|fast] [--list]``. The step is that of
``GRPOStage.training_step`` on a tiny policy of random weights and two clips of noise, and its backward pass.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from omegaconf import OmegaConf

import affectgpt_r1
from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.tokenizer import build_tokenizer
from affectgpt_r1.rewards.accuracy import AccuracyReward
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.types import ClipBatch, Sampling

PACKAGE = Path(affectgpt_r1.__file__).parent


def entered(task: Callable[[], object]) -> dict[str, set[str]]:
    """Return the functions of ours that a task enters, by file; comprehensions and lambdas are not counted."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            codes.add(frame.f_code)

    torch.set_num_threads(1)
    sys.setprofile(note)
    try:
        task()
    finally:
        sys.setprofile(None)
    functions = defaultdict(set)
    for code in codes:
        path = Path(code.co_filename)
        if PACKAGE in path.parents and not code.co_name.startswith("<"):
            functions[str(path.relative_to(PACKAGE))].add(code.co_qualname)
    return dict(functions)


def training_step(engine: str | None) -> Callable[[], object]:
    """Return a GRPO step of two clips, four completions each, with a KL term, after a first step has filled caches."""
    template = PromptTemplate("Which emotions? Answer in <answer> </answer> tags.")
    config = OmegaConf.load(CONFIGS / "model" / "tiny.yaml")
    config.video_encoder.image_size = 48
    with tempfile.TemporaryDirectory() as folder:
        config.tokenizer = str(Path(folder) / "tokenizer.json")
        build_tokenizer(["<answer> happy, sad </answer>"], template.phrases(), 400, Path(config.tokenizer))
        model = {str(key): value for key, value in OmegaConf.to_container(config, resolve=True).items()}
        del model["_target_"]
        model |= {} if engine is None else {"engine": engine}
        policy = build_policy(**model, template=template)
    lexicon = load_lexicon("bundled")
    rewards = WeightedRewards(
        {"accuracy": AccuracyReward(lexicon), "format": FormatReward()}, {"accuracy": 1.0, "format": 0.2}
    )
    stage = GRPOStage(rewards, lexicon, Sampling(max_completion_length=12), num_generations=4, beta=0.04)
    stage.prepare(policy)
    policy.train()
    batch = ClipBatch(
        names=("clip_0", "clip_1"),
        subtitles=("What a day!", ""),
        labels=(("happy",), ("sad", "tired")),
        reasons=("", ""),
        modalities=(("video", "audio", "text"),) * 2,
        frames=torch.randint(0, 256, (2, 3, 3, 48, 48), dtype=torch.uint8),
        waveforms=torch.rand(2, 2, 32_000) - 0.5,
    )

    def step() -> None:
        stage.training_step(policy, batch, seed=1).loss.backward()

    step()
    return step


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("reference", "fast"), help="model.engine; the configuration's if left out")
    parser.add_argument("--list", action="store_true", help="name the functions")
    options = parser.parse_args()
    functions = entered(training_step(options.engine))
    for file in sorted(functions):
        print(f"{len(functions[file]):4}  {file}")
        if options.list:
            print("".join(f"        {name}\n" for name in sorted(functions[file])), end="")
    print(f"{len(functions)} files, {sum(map(len, functions.values()))} functions")


if __name__ == "__main__":
    main()
