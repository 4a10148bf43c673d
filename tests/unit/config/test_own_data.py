"""The configurations that `prepare` writes compose, and read the folder that it made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from affectgpt_r1.cli.composed_command import _search_path
from affectgpt_r1.config.compose import CONFIGS, check_composed, instantiate
from affectgpt_r1.config.own_data import commands, write_configs
from affectgpt_r1.data.prepare.extract import Extraction
from affectgpt_r1.data.prepare.prepare_folder import Wishes, plan, prepare
from affectgpt_r1.errors import ConfigError
from helpers import own_folders
from helpers.configs import compose_config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, write_mp4):
    root = tmp_path_factory.mktemp("own data")
    own_folders.workbook(root / "videos", write_mp4)
    output = root / "Meine Daten"
    done = prepare(plan(Wishes(root / "videos", output, extraction=Extraction(faces="none"))), 1)
    return output, done, write_configs(output, done)


def _composed(output: Path, name: str, *overrides: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=[*_search_path(output / "configs"), *overrides])


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_trainings_read_the_folder(prepared, stage):
    output, done, _ = prepared
    config = _composed(output, "train", f"experiment=Meine_Daten/{stage}")
    check_composed(config)
    assert (config.experiment_name, config.synthetic, config.stage.name) == ("Meine_Daten-seed1", False, stage)
    assert config.model.tokenizer == f"{output}/tokenizer/tokenizer.json"
    data = instantiate(config.data, "data")
    data.setup()
    assert {split: [row.name for row in getattr(data.splits, split)] for split in done.splits} == done.splits
    assert data.splits.train[1].reason == "A smile, the 2th."
    assert data.media.modalities == ("video", "audio")


def test_the_evaluation_reads_the_same_folder(prepared):
    config = _composed(prepared[0], "evaluate", "+experiment=Meine_Daten/evaluate")
    check_composed(config)
    assert (config.data.test_labels, config.data.root) == ("labels_test.csv", str(prepared[0]))


def test_experiments_are_the_users_to_change(prepared):
    output, done, written = prepared
    assert [path.relative_to(output).as_posix() for path in written] == [
        "tokenizer/tokenizer.json",
        "configs/data/Meine_Daten.yaml",
        *(f"configs/experiment/Meine_Daten/{stage}.yaml" for stage in ("sft", "grpo", "evaluate")),
    ]
    assert write_configs(output, done) == []
    sft = output / "configs" / "experiment" / "Meine_Daten" / "sft.yaml"
    kept = sft.read_text()
    sft.write_text(f"{kept}seed: 7\n")
    (output / "configs" / "data" / "Meine_Daten.yaml").write_text("stale")
    assert [path.name for path in write_configs(output, done)] == ["Meine_Daten.yaml"]
    assert sft.read_text().endswith("seed: 7\n")
    sft.write_text(kept)


def test_commands_can_be_pasted(prepared):
    output, done, _ = prepared
    assert commands(output, done)[1] == f"affectgpt-r1 train --config-dir '{output}/configs' experiment=Meine_Daten/sft"
    done.splits["test"].clear()
    assert [line.split()[1] for line in commands(output, done)] == ["doctor", "train", "train", "predict"]


def test_a_folder_of_configurations_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no such folder"):
        _search_path(tmp_path / "none")


def test_the_tokenizer_does_not_depend_on_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rendered = tmp_path / "data" / "synthetic" / "tokenizer" / "tokenizer.json"
    given = f"paths.data={tmp_path}/mine"
    assert compose_config("train", given).model.tokenizer == f"{tmp_path}/mine/tokenizer/tokenizer.json"
    rendered.parent.mkdir(parents=True)
    rendered.touch()
    assert compose_config("train", given).model.tokenizer == str(rendered)
    assert compose_config("render", given).paths.tokenizer == f"{tmp_path}/mine/tokenizer/tokenizer.json"
    own = tmp_path / "mine" / "tokenizer" / "tokenizer.json"
    own.parent.mkdir(parents=True)
    own.touch()
    assert compose_config("train", given).model.tokenizer == str(own)
