"""Every choice of every group composes and binds; experiments change only what is there; the command line is quick."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import (
    CONFIGS,
    STAGE_KEYS,
    check_keys,
    instantiate,
    instantiate_stage,
    resolved,
)
from affectgpt_r1.config.keys import choices_of
from affectgpt_r1.config.targets import allowed_targets
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.training.grpo_config import GRPOConfig
from helpers.configs import compose_config

ENTRIES = ("train", "evaluate", "render")
OVERLAYS = (
    "experiment",
    "objective",
    "ablation",
)  # `debug` may add arguments of the trainer; they are bound like all others
SUPERVISED = ("mercaption", "ov_merd", "published", "cold_start", "on_affectgpt_cold_start")
REINFORCED = ("ablation", "rlvr", "on_affectgpt_rlvr")


def groups_of(entry: str) -> list[str]:
    """Groups of the entry's defaults list."""
    keys = [key for item in OmegaConf.load(CONFIGS / f"{entry}.yaml").defaults if item != "_self_" for key in item]
    return [str(key).removeprefix("optional ").removeprefix("override ").removeprefix("/") for key in keys]


CASES = [
    (entry, group, choice)
    for entry in ENTRIES
    for group in groups_of(entry)
    if (entry, group) not in {("train", overlay) for overlay in OVERLAYS}  # composed where overlays are
    for choice in choices_of(group)
]
REWARDS = [choice for choice in choices_of("reward") if choice != "none"]
OVERLAY_FILES = [(group, choice) for group in OVERLAYS for choice in choices_of(group)]


def composed(entry: str, *overrides: str) -> DictConfig:
    return compose_config(entry, *overrides)


def targets(tree: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield where, dict(tree)
        for key, value in tree.items():
            yield from targets(value, f"{where}.{key}".strip("."))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from targets(value, f"{where}[{index}]")


def assert_binds(config: DictConfig) -> int:
    """Every ``_target_`` exists and takes its keys; returns how many there are."""
    found = list(targets(resolved(config)))
    for where, node in found:
        target = node.pop("_target_")
        assert target in allowed_targets(re.split(r"[.\[]", where)[0]), where
        ignored = {"_partial_", *(STAGE_KEYS if where == "stage" else ())}
        arguments = {key: value for key, value in node.items() if key not in ignored}
        try:
            inspect.signature(get_object(target)).bind_partial(**arguments)
        except TypeError as error:
            pytest.fail(f"{where}: {target}: {error}")
    return len(found)


def leaf_keys(tree: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaf_keys(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix(".")


def test_every_file_belongs_to_a_group_that_some_entry_offers():
    known = {group for entry in ENTRIES for group in groups_of(entry)}
    for path in CONFIGS.rglob("*.yaml"):
        parts = path.relative_to(CONFIGS).parts
        assert path.stem in ENTRIES if len(parts) == 1 else parts[0] in known, path


@pytest.mark.parametrize(("entry", "group", "choice"), CASES)
def test_every_choice_composes_and_binds(entry, group, choice):
    config = composed(entry, f"{group}={choice}")
    check_keys(config)
    assert assert_binds(config) >= {"train": 10, "evaluate": 2, "render": 0}[entry]


@pytest.mark.parametrize("experiment", choices_of("experiment"))
@pytest.mark.parametrize("prompt", choices_of("prompt"))
def test_every_experiment_binds_with_every_prompt(experiment, prompt):
    config = composed("train", f"experiment={experiment}", f"prompt={prompt}", "logger=none")
    check_keys(config)
    assert assert_binds(config) >= 9
    name = experiment.partition("/")[2]
    assert config.stage.name == ("sft" if name in SUPERVISED else "grpo" if name in REINFORCED else name)
    assert str(config.paths.run).endswith(config.stage.name)


@pytest.mark.parametrize(("group", "choice"), OVERLAY_FILES)
def test_an_overlay_changes_only_keys_that_are_there(group, choice):
    overlay = OmegaConf.load(CONFIGS / group / f"{choice}.yaml")
    plain = OmegaConf.to_container(overlay, resolve=False) or {}
    plain.pop("hydra", None)  # how a sweep runs, not what
    chosen = [
        f"{str(key).removeprefix('override ').removeprefix('/')}={value}"
        for item in plain.pop("defaults", [])
        if isinstance(item, dict)
        for key, value in item.items()
    ]
    bases = [["~experiment"]] if group == "experiment" else [[f"experiment={one}"] for one in choices_of("experiment")]
    keys = set(leaf_keys(plain)) if plain else set()
    missing = []
    for base in bases:
        baseline = OmegaConf.to_container(composed("train", *base, *chosen), resolve=False)
        missing.append(keys - set(leaf_keys(baseline)))
        if not missing[-1]:
            break
    assert not missing[-1], missing
    config = composed("train", f"{group}={choice}")
    check_keys(config)
    assert assert_binds(config) >= 10


def test_the_command_line_wins_over_an_experiment():
    config = composed("train", "experiment=demo/grpo", "trainer.max_steps=7", "stage.beta=0.04", "data=mercaption")
    assert (config.trainer.max_steps, config.stage.beta) == (7, 0.04)
    assert config.data.train_labels == "track2_train_mercaptionplus.csv"
    assert resolved(config)["optim"]["scheduler"]["total_steps"] == 7


def test_evaluation_looks_for_checkpoints_where_training_puts_them():
    evaluation = resolved(composed("evaluate"))
    for name in ("sft", "control", "grpo"):
        training = resolved(composed("train", f"experiment=demo/{name}"))
        assert evaluation["systems"][name] == f"{training['callbacks']['best_checkpoint']['folder']}/best.ckpt"
        assert training["encoders_from"] == evaluation["encoders_from"]
        assert training["model"]["language_model"] == evaluation["model"]["language_model"]
    encoders = resolved(composed("train", "experiment=demo/pretrain_encoders"))
    assert evaluation["encoders_from"] == f"{encoders['callbacks']['best_checkpoint']['folder']}/best.ckpt"


@pytest.mark.parametrize(
    ("stage", "reward"),
    [*((stage, "all") for stage in choices_of("stage") if stage != "grpo"), *(("grpo", reward) for reward in REWARDS)],
)
def test_every_stage_and_reward_can_be_built(stage, reward):
    built = instantiate_stage(composed("train", f"stage={stage}", f"reward={reward}", "prompt=think").stage)
    assert callable(built.training_step)
    if stage == "grpo":
        parts = {
            "all": "accuracy format dual alignment perception",
            "r1_omni": "single_label format",
            "r1_omni_published": "single_label_published format_published",
            "mer_r1": "recall precision format",
            "accuracy_repetition": "accuracy format repetition",
        }
        assert set(built.rewards.weights) == set(parts.get(reward, reward.replace("_", " ")).split())


def test_a_reward_is_composed_from_parts():
    given = ("reward=none", "reward/parts=[single_label,dual]", "reward.weights.dual=0.6", "prompt=think")
    rewards = instantiate(composed("train", *given).reward, "reward")
    assert list(rewards.rewards) == ["single_label", "dual"]
    assert rewards.weights == {"single_label": 1.0, "dual": 0.6}


@pytest.mark.parametrize("penalty", choices_of("penalty"))
def test_every_penalty_reaches_the_reward(penalty):
    rewards = instantiate(composed("train", f"penalty={penalty}").reward, "reward")
    assert rewards.rewards["accuracy"].penalty == penalty
    assert set(rewards.weights) == {"accuracy", "format"}


@pytest.mark.parametrize(
    ("penalty", "reward"),
    [
        *((penalty, "accuracy_format") for penalty in choices_of("penalty") if penalty != "ratio"),
        *(("ratio", reward) for reward in REWARDS),
    ],
)
def test_the_overlong_penalty_joins_every_reward(reward, penalty):
    off = [f"reward={reward}", f"penalty={penalty}", "prompt=think"]
    without = instantiate(composed("train", *off).reward, "reward")
    rewards = instantiate(composed("train", *off, "penalty.overlong_tokens=16").reward, "reward")
    assert rewards.weights == without.weights | {"overlong": 1.0}
    assert (rewards.rewards["overlong"].free, rewards.rewards["overlong"].ramp) == (80, 16)


@pytest.mark.parametrize("reward", ["dual", "alignment", "perception"])
def test_a_reward_of_the_reasoning_alone_is_refused_without_reasoning(reward):
    with pytest.raises(ConfigError, match="prompt=think"):
        instantiate(composed("train", f"reward={reward}").reward, "reward")


@pytest.mark.parametrize("model", choices_of("model"))
def test_the_small_models_can_be_built(model, tmp_path):
    from affectgpt_r1.policy.prompts import PromptTemplate
    from affectgpt_r1.policy.tokenizer import build_tokenizer

    template = PromptTemplate("Which?")
    build_tokenizer(["happy and sad"], template.phrases(), 300, tmp_path / "tokenizer.json")
    if not model.startswith("tiny"):
        pytest.skip("needs pretrained weights; test_pretrained.py and test_plan.py build it without")
    config = composed("train", f"model={model}", f"paths.tokenizer={tmp_path / 'tokenizer.json'}")
    policy = instantiate(config.model, "model", _partial_=True)(template=template)
    assert 500_000 < sum(one.numel() for one in policy.parameters()) < 3_000_000


def test_callbacks_loggers_optimizer_and_trainer_can_be_built(tmp_path):
    import torch

    config = composed("train", f"paths.outputs={tmp_path}", "logger=csv", "trainer.max_steps=7")
    loggers = list(instantiate(config.logger, "logger").values())
    callbacks = list(instantiate(config.callbacks, "callbacks").values())
    trainer = instantiate(config.trainer, "trainer", logger=loggers, callbacks=callbacks)
    assert trainer.max_steps == 7
    assert [type(one).__name__ for one in callbacks if one not in trainer.callbacks] == []
    optimizer = instantiate(config.optim.optimizer, "optim")([torch.nn.Parameter(torch.zeros(2, 2))])
    assert optimizer.defaults["lr"] == 2e-3
    assert instantiate(config.optim.scheduler, "optim")(optimizer).get_last_lr() == pytest.approx([2e-3 / 21])


def test_choices_that_switch_something_off_build_nothing():
    config = composed("train", "logger=none", "callbacks=none")
    assert not instantiate(config.logger, "logger")
    assert not instantiate(config.callbacks, "callbacks")


TRAIN = """
import atexit, sys
from affectgpt_r1.cli.train import main
large = ("torch", "lightning", "transformers", "mlflow", "pandas")
atexit.register(lambda: print("loaded:", *(name for name in large if name in sys.modules)))
main()
"""


def run_train(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, which at its end says what it has loaded."""
    return subprocess.run(
        [sys.executable, "-c", TRAIN, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )


def test_help_lists_the_groups_and_waits_for_no_large_library():
    done = run_train("--help")
    assert done.returncode == 0
    assert all(f"{group}:" in done.stdout for group in ("stage", "data", "model", "reward", "experiment"))
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_a_misspelt_override_ends_with_code_two_and_the_nearest_key():
    done = run_train("stage.bata=1")
    assert done.returncode == 2
    assert "the nearest is stage.beta" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ablation", choices_of("ablation"))
def test_an_ablation_says_its_hypothesis_and_overrides_three_things_at_most(ablation):
    path = CONFIGS / "ablation" / f"{ablation}.yaml"
    package, hypothesis, *_ = path.read_text(encoding="utf-8").splitlines()
    assert package == "# @package _global_"
    assert hypothesis.startswith("# Hypothesis: ")
    overlay = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert len(overlay["defaults"]) + len(set(overlay) - {"defaults", "hydra"}) <= 3
    grid = overlay["hydra"]["sweeper"]["params"]
    config = composed("train", f"ablation={ablation}")
    assert config.sweep.name == ablation
    assert config.sweep.axis in grid
    assert config.sweep.baseline in grid[config.sweep.axis].split(",")
    assert grid["seed"] == "1,2,3"
    for group in set(grid) - {"seed"}:
        assert set(grid[group].split(",")) <= set(choices_of(group))


@pytest.mark.parametrize(("launcher", "key"), [("joblib", "n_jobs"), ("submitit_slurm", "timeout_min")])
def test_a_sweep_composes_with_the_launchers(launcher, key):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher", reason="comes with the dev extra")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["ablation=penalty", f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert key in config.hydra.launcher
    assert "Launcher" in config.hydra.launcher._target_
    assert config.hydra.callbacks.sweep._target_ == "affectgpt_r1.config.sweep.SweepCallback"


# File names: released folders lack what the synthetic one has.
OWN_DEFAULTS = {
    *(("data=mercaption", "validation_labels"), ("data=mercaption", "test_labels")),
    ("model=humanomni_05b", "family"),
}


def defaults_of(target: str) -> dict[str, Any]:
    """Parameters of a target that have a default; ``**options`` are those of the class that takes them."""
    built = GRPOConfig if target.endswith(".GRPOStage") else get_object(target)
    inits = (
        [vars(base)["__init__"] for base in inspect.getmro(built) if "__init__" in vars(base)]
        if isinstance(built, type)
        else [built]
    )
    found: dict[str, Any] = {}
    for init in inits[: 2 if isinstance(built, type) else 1]:
        for name, parameter in inspect.signature(init).parameters.items():
            found.setdefault(name, parameter.default)
    return {name: default for name, default in found.items() if default is not inspect.Parameter.empty}


def _without_form(value: Any) -> Any:
    """A tuple is a list in YAML, and an empty one or an empty mapping is what Python's None stands for."""
    return (list(value) if isinstance(value, tuple | list) else value) or (
        value if isinstance(value, int | float) else None
    )


def test_python_and_configs_have_the_same_defaults():
    """A choice that is built on another one may differ from it; so may experiments."""
    compared, differing = 0, []
    for path in sorted(CONFIGS.rglob("*.yaml")):
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        group, choice = path.relative_to(CONFIGS).parent.as_posix(), path.stem
        if group in (".", "hydra") or group.partition("/")[0] in (*OVERLAYS, "debug") or "defaults" in plain:
            continue
        for where, node in targets(plain):
            if not node["_target_"].startswith("affectgpt_r1."):
                continue
            for name, default in defaults_of(node["_target_"]).items():
                value = node.get(name)
                if name not in node or str(value).startswith("${") or (f"{group}={choice}", name) in OWN_DEFAULTS:
                    continue
                compared += 1
                if _without_form(value) != _without_form(default):
                    differing.append(f"{path.relative_to(CONFIGS)}: {where}.{name}={value}, in Python {default}")
    assert differing == []
    assert compared > 60
