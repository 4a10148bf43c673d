"""The hash of a trial changes with what its result depends on, and with nothing else."""

import shutil

import pytest
import torch

from affectgpt_r1.config.trials import checkpoint_digest, config_hash, is_untrained, read_trial
from helpers.configs import compose_config


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """``composed(*overrides)``: the penalty sweep over a folder with label files and a checkpoint."""
    folder = tmp_path_factory.mktemp("trials")
    (folder / "data").mkdir()
    for file in ("track2_train_ovmerd", "track3_train_ovmerd", "track2_validation", "track2_test", "subtitle_chieng"):
        (folder / "data" / f"{file}.csv").write_text("name,openset\n", encoding="utf-8")
    (folder / "data" / "track2_train_mercaptionplus.csv").write_text("name,openset\n", encoding="utf-8")
    save(folder / "start.ckpt", 1.0)
    save(folder / "other.ckpt", 2.0)

    def compose_trial(*overrides):
        base = ("ablation=penalty", f"paths.data={folder}/data", f"init_from={folder}/start.ckpt")
        return compose_config("train", *base, *overrides)

    compose_trial.folder = folder
    return compose_trial


def save(path, value):
    torch.save({"state_dict": {"policy.weight": torch.full((2,), value)}, "digests": {"tokenizer": "t"}}, path)


@pytest.mark.parametrize(
    "override",
    [
        *("seed=2", "penalty=ratio", "reward=accuracy", "prompt=think", "trainer.max_steps=7", "stage.beta=0.1"),
        *("optim.optimizer.lr=1e-4", "data.batch_size=4", "model.fusion_hidden_size=32", "init_from=other"),
    ],
)
def test_what_the_result_depends_on_changes_the_hash(composed, override):
    if override == "init_from=other":
        override = f"init_from={composed.folder}/other.ckpt"
    assert config_hash(composed(override)) != config_hash(composed())


@pytest.mark.parametrize(
    "override",
    [
        *("paths.outputs=/elsewhere", "experiment_name=other", "num_threads=2", "ckpt_path=last", "sweep.name=reward"),
        *("callbacks.last_checkpoint.every_n_steps=3", "logger.mlflow.run_name=x", "callbacks=none"),
    ],
)
def test_folders_logging_and_callbacks_do_not_change_the_hash(composed, override):
    assert config_hash(composed(override)) == config_hash(composed())


def test_another_data_folder_with_the_same_files_is_the_same_trial(composed, tmp_path):
    copy = shutil.copytree(composed.folder / "data", tmp_path / "copy")
    assert config_hash(composed(f"paths.data={copy}")) == config_hash(composed())
    (copy / "track2_test.csv").write_text("name,openset\na,happy\n", encoding="utf-8")
    assert config_hash(composed(f"paths.data={copy}")) != config_hash(composed())


def test_the_untrained_policy_is_one_trial_for_every_seed_rate_and_penalty(composed):
    hashes = {
        config_hash(composed("reward=none", *more))
        for more in ((), ("seed=2",), ("penalty=ratio",), ("trainer.max_steps=7",), ("optim.optimizer.lr=1.0",))
    }
    assert len(hashes) == 1
    assert hashes != {config_hash(composed())}
    assert config_hash(composed("reward=none", "prompt=think")) not in hashes
    assert is_untrained(composed("reward=none"))
    assert not is_untrained(composed())


def test_a_trial_is_called_after_what_its_sweep_varies(composed):
    choices = {"penalty": "ratio", "reward": "accuracy_format", "prompt": "no_think"}
    trial = read_trial(composed("penalty=ratio", "seed=3"), choices)
    assert trial.run_name == "penalty-ratio-seed3"
    assert trial.config_hash == config_hash(composed("penalty=ratio", "seed=3"))
    untrained = read_trial(composed("penalty=ratio", "reward=none"), {**choices, "reward": "none"})
    assert untrained.choice == "ratio_untrained"
    reward = read_trial(
        composed("reward=none", "sweep.name=reward", "sweep.axis=reward"), {**choices, "reward": "none"}
    )
    assert reward.choice == "none"


def test_a_checkpoint_counts_by_its_weights_not_its_bytes(composed, tmp_path):
    path = tmp_path / "same.ckpt"
    weights = {"policy.weight": torch.full((2,), 1.0)}
    torch.save({"state_dict": weights, "digests": {"tokenizer": "t"}, "path": str(path)}, path)
    assert path.read_bytes() != (composed.folder / "start.ckpt").read_bytes()
    assert checkpoint_digest(path) == checkpoint_digest(composed.folder / "start.ckpt")
