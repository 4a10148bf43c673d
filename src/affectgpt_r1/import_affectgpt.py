"""A released AffectGPT checkpoint as one of ours: ``affectgpt-r1 import-affectgpt CKPT --output OUR.ckpt``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from affectgpt_r1.command import run_composed_command
from affectgpt_r1.config import resolved
from affectgpt_r1.errors import CheckpointError


def import_affectgpt(config: DictConfig, checkpoint: Path, output: Path) -> tuple[int, list[str]]:
    """Map the names and write a checkpoint for ``init_from``; the model is built on the meta device only.

    Args:
        config: The composed ``configs/train.yaml``, with the checkpoint's ``model``.
        checkpoint: The released file; it is read as weights alone, and refused if that fails.
        output: Where to.

    Returns:
        The number of tensors, and what of the file has no use here: modules by their published name.

    Raises:
        CheckpointError: The file cannot be read so, does not fit the model, or ours cannot be written.
    """
    import torch

    from affectgpt_r1.policy.build import build_modules
    from affectgpt_r1.policy.checkpoint import POLICY_PREFIX, check_tensors
    from affectgpt_r1.policy.published import read_weights
    from affectgpt_r1.policy.published_names import our_name, our_names

    model = resolved(config)["model"]
    modules = {key: value for key, value in model.items() if key not in ("_target_", "tokenizer", "share_prompt")}
    with torch.device("meta"):
        language_model, _, fusion = build_modules(vocab_size=None, image=config.data.visual == "image", **modules)
    parts = {"language_model": language_model, "fusion": fusion}
    trained = {
        f"{part}.{name}": one
        for part, module in parts.items()
        for name, one in module.named_parameters()
        if one.requires_grad
    }
    published = read_weights(checkpoint)
    state = our_names(published, trained)
    left_out = sorted({name.removeprefix("module.").split(".")[0] for name in published if our_name(name) not in state})
    check_tensors(state, trained, str(checkpoint))
    tensors = {f"{POLICY_PREFIX}{name}": tensor.float() for name, tensor in state.items()}
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": tensors, "digests": {}}, output)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError where a folder is missing or full
        raise CheckpointError(f"--output {output}: cannot be written: {str(error).splitlines()[0]}") from error
    return len(state), left_out


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: options of its own, and the overrides of ``configs/train.yaml``."""
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 import-affectgpt", description="Make a released checkpoint one of ours, for init_from."
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path, required=True)

    def work(options: argparse.Namespace, config: DictConfig) -> str:
        count, left_out = import_affectgpt(config, options.checkpoint, options.output)
        ignored = f", without {', '.join(left_out)}, which this model does not use" if left_out else ""
        return f"{options.output}: {count} tensors{ignored}; start from them with init_from={options.output}"

    print(run_composed_command(parser, work, arguments, first=["experiment=affectgpt_mercaption"]))


if __name__ == "__main__":
    main()
