import json
import os
import re
import subprocess

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from affectgpt_r1.data.splits import LabelFile
from affectgpt_r1.errors import ConfigError, WriteError
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger, mlflow_loggers, read_run_id
from affectgpt_r1.tracking.provenance import flatten_config, git_tags


def _run(logger):
    return logger.experiment.get_run(logger.run_id)


def test_params_are_dotted_cut_and_the_full_config_is_an_artifact(logger, read_artifact):
    config = {"stage": {"beta": 0.04, "prompt": "x" * 400, "rewards": ["accuracy"]}, "empty": {}, "ckpt_path": None}
    config |= {f"many{index}": index for index in range(120)}
    logger.log_config(config)
    params = _run(logger).data.params
    assert params["stage.beta"] == "0.04"
    assert params["stage.prompt"] == "x" * 249 + "…"
    assert params["stage.rewards"] == "['accuracy']"
    assert (params["empty"], params["ckpt_path"], params["many119"]) == ("{}", "None", "119")
    assert len(params) == 125
    assert yaml.safe_load(read_artifact("config/resolved.yaml")) == config


def test_paths_inside_the_runs_folder_are_not_params(logger, read_artifact):
    folder = logger.save_dir
    config = {"paths": {"run": folder, "data": f"{folder}-data"}, "callbacks": {"a": {"folder": f"{folder}/a"}}}
    logger.log_config(config)
    assert _run(logger).data.params == {"paths.data": f"{folder}-data"}
    assert yaml.safe_load(read_artifact("config/resolved.yaml")) == config


def test_two_runs_are_compared_by_what_was_set_and_by_the_score(logger):
    logger.log_config({"seed": 1, "logger": {"mlflow": {"run_name": "grpo-seed1", "stage": "grpo"}}})
    logger.log_metrics({"epoch": 0.0, "val/hacking/constant3_reward": 0.5, "val/kl": 0.1, "val/f1": 0.3}, step=1)
    data = _run(logger).data
    assert data.params == {"seed": "1", "logger.mlflow.stage": "grpo"}
    assert list(data.metrics) == ["val/f1", "val/kl", "val/hacking/constant3_reward", "epoch"]


def test_test_metrics_are_those_of_the_logged_model(logger, tmp_path):
    files = [LabelFile(split, tmp_path / f"{split}.csv", "ab" * 32, 600) for split in ("train", "test")]
    logger.log_data("1", synthetic=True, files=files)
    logger.log_checkpoint(tmp_path / "best.ckpt", 10)
    logger.log_test_metrics({"test/f1": 0.4}, 10)
    (output,) = _run(logger).outputs.model_outputs
    (score,) = logger.experiment.get_logged_model(output.model_id).metrics
    assert (score.key, score.value, score.step, score.dataset_name) == ("test/f1", 0.4, 10, "test.csv")
    assert _run(logger).data.metrics == {"test/f1": 0.4}


def test_key_that_mlflow_refuses_is_replaced():
    assert flatten_config({"a,b": {"c=d": 1}}) == {"a_b.c_d": "1"}


def test_tags_tell_code_data_and_command(logger):
    logger.log_data(digest="sha256:12ab", synthetic=True, note="600 clips")
    tags = _run(logger).data.tags
    assert tags["data_digest"] == "sha256:12ab"
    assert tags["stage"] == "grpo"
    assert tags["experiment"] == "demo"
    assert tags["mlflow.runName"] == "grpo-seed1"
    assert "synthetic" in tags["mlflow.note.content"]
    assert "600 clips" in tags["mlflow.note.content"]
    assert tags["mlflow.note.content"].endswith(f"Command: `{tags['command']}`\n\nFolder: `{logger.save_dir}`")
    assert re.fullmatch(r"\d+ (CPU cores|x .+)", tags["hardware"])
    assert tags["command"]
    assert {key: tags[key] for key in ("git_commit", "git_dirty")} == git_tags()


def test_real_data_are_not_called_synthetic(logger):
    logger.log_data(digest="1", synthetic=False)
    assert _run(logger).data.tags["mlflow.note.content"].startswith("Command: `")


def test_label_files_are_data_sets_of_the_run(logger, tmp_path):
    logger.log_data("1", synthetic=True, files=[LabelFile("train", tmp_path / "train.csv", "ab" * 32, 600)])
    (used,) = _run(logger).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.dataset.profile) == (
        "train.csv",
        "ab" * 8,
        '{"num_clips": 600}',
    )
    columns = json.loads(used.dataset.schema)["mlflow_colspec"]
    assert [(column["name"], column["type"]) for column in columns] == [("name", "string"), ("labels", "string")]
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "train")]
    assert _run(logger).data.tags["data"] == "train.csv (train, 600 clips)"


def test_the_checkpoint_is_a_logged_model_with_a_signature(logger, tmp_path):
    logger.log_checkpoint(tmp_path / "best.ckpt", 275)
    (output,) = _run(logger).outputs.model_outputs
    model = logger.experiment.get_logged_model(output.model_id)
    assert (model.name, model.status.value, output.step) == ("grpo-seed1-step275", "READY", 275)
    assert (model.params["checkpoint"], model.tags["stage"]) == (str(tmp_path / "best.ckpt"), "grpo")
    assert f"predict FILE --checkpoint {tmp_path / 'best.ckpt'}" in model.tags["mlflow.note.content"]
    (file,) = logger.outputs.glob(f"artifacts/demo/models/{output.model_id}/artifacts/MLmodel")
    signature = yaml.safe_load(file.read_text("utf-8"))["signature"]
    assert [column["name"] for column in json.loads(signature["inputs"])] == ["video", "subtitle"]


def test_a_prompt_gets_a_version_when_it_changes(logger):
    for template, version in (("Say {{subtitle}}", 1), ("Say {{subtitle}}", 1), ("Feel {{subtitle}}", 2)):
        logger.log_prompt("affectgpt-r1-think", template)
        linked = json.loads(_run(logger).data.tags["mlflow.linkedPrompts"])
        assert linked[-1] == {"name": "affectgpt-r1-think", "version": str(version)}


def test_an_experiment_opens_on_its_runs_with_their_scores(logger):
    experiment = logger.experiment.get_experiment(logger.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "metrics.`test/f1`" in json.loads(experiment.tags["mlflow.sharedViewState.runs"])["selectedColumns"]


def test_git_tags_follow_the_repository(tmp_path, monkeypatch):
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # a hook of Git's runs with them
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # commits may be signed there
    assert git_tags(tmp_path) == {"git_commit": "unknown", "git_dirty": "unknown"}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    clean = git_tags(tmp_path)
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] == "false"
    (tmp_path / "file").write_text("2")
    assert git_tags(tmp_path) == {"git_commit": clean["git_commit"], "git_dirty": "true"}
    subprocess.run([*git, "checkout", "-q", "file"], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))  # a hook of Git's runs with it
    (tmp_path / "notes.txt").write_text("outside src/ and configs/")
    assert git_tags(tmp_path) == clean
    (tmp_path / "src" / "été").mkdir(parents=True)
    (tmp_path / "src" / "été" / "mine.py").write_text("a reward of my own")
    assert git_tags(tmp_path) == {"git_commit": clean["git_commit"], "git_dirty": "true"}


def test_a_repository_that_does_not_track_the_package_is_not_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    site = tmp_path / ".venv" / "site-packages" / "affectgpt_r1"
    site.mkdir(parents=True)
    (site / "module.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "someone's project"], check=True)
    assert git_tags(site) == {"git_commit": "unknown", "git_dirty": "unknown"}


def test_resumed_run_continues_and_takes_changed_params(outputs, logger, read_artifact):
    logger.log_config({"seed": 1, "trainer": {"max_steps": 10}})
    logger.log_metrics({"train/loss": 2.0}, step=10)
    logger.end("FAILED")
    logger.keep_run_id()
    resumed = TrackedMLFlowLogger(outputs, "demo", run_id=read_run_id(outputs / "run"))
    resumed.start()
    assert _run(resumed).info.status == "RUNNING"
    resumed.log_config({"seed": 1, "trainer": {"max_steps": 20}, "new": "x"})
    resumed.log_metrics({"train/loss": 1.0}, step=20)
    resumed.finalize("success")
    run = _run(logger)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "1", "trainer.max_steps": "10", "new": "x"}
    assert json.loads(read_artifact("config/changed_params.json")) == {"trainer.max_steps": ["10", "20"]}
    assert yaml.safe_load(read_artifact("config/resolved.yaml"))["trainer"] == {"max_steps": 20}
    history = logger.experiment.get_metric_history(logger.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(10, 2.0), (20, 1.0)]


def test_unknown_run_id_is_an_error(outputs):
    with pytest.raises(ConfigError, match="run_id=0123"):
        TrackedMLFlowLogger(outputs, "demo", run_id="0123").start()


def test_folder_without_a_run_has_no_run_id(tmp_path):
    assert read_run_id(tmp_path) is None


def test_table_is_replaced_its_values_rounded_and_nan_an_empty_cell(logger, read_artifact):
    logger.log_table(["text", "reward"], [["a", float("nan")]], "completions/step_000001.json")
    logger.log_table(["text", "reward"], [["émü", 0.123456], [None, float("inf")]], "completions/step_000001.json")
    table = json.loads(read_artifact("completions/step_000001.json"))
    assert table == {"columns": ["text", "reward"], "data": [["émü", 0.1235], [None, None]]}
    listed = json.loads(_run(logger).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": "completions/step_000001.json", "type": "table"}]


def test_list_of_tables_stays_short_enough_to_be_read(logger):
    for step in range(85):
        logger.log_table(["step"], [[step]], f"completions/step_{step:06d}.json")
    tag = _run(logger).data.tags["mlflow.loggedArtifacts"]
    assert len(tag) < 8000
    listed = json.loads(tag)
    assert [listed[0]["path"], listed[-1]["path"]] == ["completions/step_000005.json", "completions/step_000084.json"]
    assert len(logger.experiment.list_artifacts(logger.run_id, "completions")) == 85


def test_only_mlflow_loggers_hold_artifacts(logger, tmp_path):
    assert mlflow_loggers([CSVLogger(tmp_path), logger]) == [logger]


@pytest.mark.parametrize("content", [b"", b"\0" * 33, b"0123\n", b"0123456789abcdef" * 2 + b"x", b"\xff\xfe"])
def test_a_damaged_run_id_is_one_line(tmp_path, content):
    (tmp_path / "mlflow_run_id").write_bytes(content)
    with pytest.raises(ConfigError, match=r"mlflow_run_id: damaged, .* by logger\.mlflow\.run_id=ID, or delete"):
        read_run_id(tmp_path)


def test_a_text_that_cannot_be_written_leaves_the_earlier_one(logger, read_artifact, monkeypatch):
    logger.log_text("[1]", "completions/a.json")

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("affectgpt_r1.io.files.os.replace", full_disk)
    with pytest.raises(WriteError, match=r"a\.json: cannot be written: No space left on device; make room"):
        logger.log_text("[2]", "completions/a.json")
    assert read_artifact("completions/a.json") == "[1]"
