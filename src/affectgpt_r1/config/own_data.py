"""Write what a run on a prepared folder starts from: a tokenizer, and configurations for ``--config-dir``."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from omegaconf import OmegaConf

from affectgpt_r1.config.render_demo import prompt_phrases
from affectgpt_r1.config.run_names import TOKENIZER
from affectgpt_r1.data.prepare.extract import write_changed
from affectgpt_r1.data.prepare.prepare_folder import LABEL_FILES, REASONS, SUBTITLES, Prepared
from affectgpt_r1.policy.tokenizer import build_tokenizer

VOCAB_SIZE = 2048
EPOCHS = 30  # of SFT in the experiment to start with
BATCH_SIZE = 16
STAGES = (("doctor", "sft"), ("train", "sft"), ("train", "grpo"))


def data_name(output: Path) -> str:
    """Return the name of a folder's configurations.

    >>> data_name(Path("Meine Videos")), data_name(Path("..."))
    ('Meine_Videos', 'own')
    """
    return re.sub(r"[^\w-]+", "_", output.absolute().name, flags=re.ASCII).strip("_") or "own"


def write_configs(output: Path, prepared: Prepared) -> list[Path]:
    """Write tokenizer, data set and experiments; return the files that are new or have changed.

    Experiments are the user's to change, and written once.
    """
    written: list[Path] = []
    tokenizer = output / TOKENIZER
    if not tokenizer.exists():  # never again: checkpoints know its tokens
        build_tokenizer(prepared.texts, prompt_phrases(), VOCAB_SIZE, tokenizer)
        written.append(tokenizer)
    name, root = data_name(output), str(output.resolve())
    configs = output / "configs"
    path = configs / "data" / f"{name}.yaml"
    if write_changed(path, _data(prepared, root)):
        written.append(path)
    for stage, text in _experiments(prepared, name, root).items():
        path = configs / "experiment" / name / f"{stage}.yaml"
        if not path.exists():
            write_changed(path, text)
            written.append(path)
    return written


def commands(output: Path, prepared: Prepared) -> list[str]:
    """Return what to type next, one command for each stage."""
    name = data_name(output)
    given = f"--config-dir {_quoted(output / 'configs')}"
    lines = [f"{command} {given} experiment={name}/{stage}" for command, stage in STAGES]
    if prepared.splits["test"]:
        lines.append(f"evaluate {given} +experiment={name}/evaluate")
    lines.append(f"predict FILE --checkpoint outputs/{name}-seed1/grpo/checkpoints/best.ckpt")
    return [f"affectgpt-r1 {line}" for line in lines]


def _quoted(path: Path) -> str:
    text = str(path)
    return text if re.fullmatch(r"[\w./-]+", text, flags=re.ASCII) else "'" + text.replace("'", "'\\''") + "'"


def _data(prepared: Prepared, root: str) -> str:
    content = {
        "defaults": ["mercaption", "_self_"],
        "root": root,
        "train_labels": LABEL_FILES["train"],
        "train_reasons": REASONS if prepared.has_reasons else None,
        "validation_labels": LABEL_FILES["validation"] if prepared.splits["validation"] else None,
        "test_labels": LABEL_FILES["test"] if prepared.splits["test"] else None,
        "subtitles": SUBTITLES if prepared.has_subtitles else None,
        "modalities": list(prepared.modalities),
        "visual": prepared.visual,
    }
    return f"# Written by `affectgpt-r1 prepare`, again at each run.\n{OmegaConf.to_yaml(OmegaConf.create(content))}"


def _experiments(prepared: Prepared, name: str, root: str) -> dict[str, str]:
    number = max(len(prepared.splits["train"]), 1)
    batch = min(BATCH_SIZE, number)
    steps = min(2000, EPOCHS * math.ceil(number / batch))
    head = "# @package _global_\n# {} Yours to change: `prepare` does not write it again.\n"
    common = f"""\
experiment_name: {name}-seed${{seed}}
synthetic: false
paths: {{data: {json.dumps(root, ensure_ascii=False)}}}
"""
    size = f"data: {{batch_size: {batch}}}\n"
    scratch = "encoders_from: null   # model=tiny from scratch: checks that all is complete, its scores mean nothing\n"
    return {
        "sft": (
            head.format("SFT.")
            + f"defaults:\n  - override /stage: sft\n  - override /data: {name}\n{common}{scratch}{size}"
            + "optim: {optimizer: {lr: 2.0e-3}}\n"
            + f"trainer: {{max_steps: {steps}, val_check_interval: {max(1, steps // 10)}}}\n"
        ),
        "grpo": (
            head.format("GRPO from that SFT policy.")
            + f"defaults:\n  - override /stage: grpo\n  - override /data: {name}\n{common}{scratch}"
            + "init_from: ${paths.experiment}/sft/checkpoints/best.ckpt\n"
            + f"{size}stage: {{loss_type: bnpo}}\noptim: {{optimizer: {{lr: 8.0e-4}}}}\n"
            + f"trainer: {{max_steps: {min(300, steps)}, val_check_interval: {max(1, min(300, steps) // 10)}}}\n"
        ),
        "evaluate": (
            head.format("Compare both on the test clips.") + f"defaults:\n  - override /data: {name}\n{common}{scratch}"
        ),
    }
