import json
from types import SimpleNamespace

from affectgpt_r1.callbacks.completions_table import CompletionsTable
from affectgpt_r1.callbacks.hacking_alarm import HACKING_TAG, RewardHackingAlarm
from affectgpt_r1.callbacks.unreadable_clips import UnreadableClipsMonitor
from affectgpt_r1.tracking.run_status import tracked_run
from affectgpt_r1.types import CompletionRecord, UnreadableClip


def _trainer(logger, step):
    return SimpleNamespace(loggers=[logger], global_step=step, is_global_zero=True)


def test_completions_are_one_table_per_step(logger, read_artifact, tmp_path):
    callback = CompletionsTable(tmp_path / "run", every_n_steps=50, console_rows=0)
    record = CompletionRecord("a", "p", "sad", "<answer>sad</answer>", {"accuracy": 1.0}, 1.0, 0.5)
    with tracked_run([logger]):
        for step in range(101):
            callback.on_train_batch_end(_trainer(logger, step), None, {"records": [record]}, None, 0)
    paths = [artifact.path for artifact in logger.experiment.list_artifacts(logger.run_id, "completions")]
    assert paths == [f"completions/step_{step:06d}.json" for step in (1, 50, 100)]
    table = json.loads(read_artifact("completions/step_000050.json"))
    assert table["data"] == [[50, "a", "sad", "<answer>sad</answer>", 1.0, 1.0, 0.5, "p"]]
    assert not (tmp_path / "run").exists()


def test_unreadable_clips_are_an_artifact_and_a_metric(logger, read_artifact, tmp_path):
    callback = UnreadableClipsMonitor(tmp_path, max_fraction=0.05)
    callback.skipped.add([UnreadableClip("clip_a", "zero bytes")], num_read=49)
    callback.on_train_end(_trainer(logger, 12), SimpleNamespace())
    assert read_artifact("data/unreadable_clips.csv").splitlines() == ["name,reason", "clip_a,zero bytes"]
    (point,) = logger.experiment.get_metric_history(logger.run_id, "train/unreadable_clips")
    assert (point.step, point.value) == (12, 1.0)


def test_the_step_at_which_reward_hacking_showed_is_a_tag(logger):
    callback = RewardHackingAlarm(window=3)
    with tracked_run([logger]):
        for index in range(4):
            trainer = _trainer(logger, 25 * index)
            trainer.sanity_checking, trainer.callback_metrics = False, {"val/f1": 0.8 - 0.1 * index}
            record = CompletionRecord("a", "p", "sad", "x", {}, 0.5 + 0.1 * index, 0.5)
            callback.on_train_batch_end(trainer, None, {"records": [record]}, None, 0)
            callback.on_validation_end(trainer, None)
    assert logger.experiment.get_run(logger.run_id).data.tags[HACKING_TAG] == "50"
