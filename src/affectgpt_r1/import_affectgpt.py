"""A released AffectGPT checkpoint as one of ours: ``affectgpt-r1 import-affectgpt CKPT --output OUR.ckpt``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from affectgpt_r1.config import CONFIGS, explain, resolved
from affectgpt_r1.errors import AffectGPTError


def import_affectgpt(config: DictConfig, checkpoint: Path, output: Path) -> int:
    """Map the names and write a checkpoint for ``init_from``; the model is built on the meta device only.

    Args:
        config: The composed ``configs/train.yaml``, with the checkpoint's ``model``.
        checkpoint: The released file; it is read as weights alone, and refused if that fails.
        output: Where to.

    Returns:
        The number of tensors.

    Raises:
        CheckpointError: The file cannot be read so, or does not fit the model.
    """
    import torch

    from affectgpt_r1.policy.build import build_modules
    from affectgpt_r1.policy.checkpoint import POLICY_PREFIX, check_tensors
    from affectgpt_r1.policy.published import read_weights
    from affectgpt_r1.policy.published_names import our_names

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
    state = our_names(read_weights(checkpoint), trained)
    check_tensors(state, trained, str(checkpoint))
    output.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{POLICY_PREFIX}{name}": tensor.float() for name, tensor in state.items()}
    torch.save({"state_dict": tensors, "digests": {}}, output)
    return len(state)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: options of its own, and the overrides of ``configs/train.yaml``."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 import-affectgpt", description="Make a released checkpoint one of ours, for init_from."
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options, overrides = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", overrides=["experiment=affectgpt_mercaption", *overrides])
        count = import_affectgpt(config, options.checkpoint, options.output)
    except (HydraException, AffectGPTError) as error:
        print(f"error: {explain(error, overrides)}", file=sys.stderr)
        raise SystemExit(2) from error
    print(f"{options.output}: {count} tensors; start from them with init_from={options.output}")


if __name__ == "__main__":
    main()
