import json

import pytest
from lightning.pytorch.loggers import CSVLogger

from affectgpt_r1.data.splits import LabelFile
from affectgpt_r1.evaluation.log_evaluation import evaluation_metrics, log_evaluation, tables_text
from affectgpt_r1.evaluation.tables import comparison_table, evaluation_tables, modality_table
from affectgpt_r1.io.clean_text import json_line
from affectgpt_r1.io.files import write_text
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger


def _system(f1):
    return {
        "mean_level1": {"f1": f1, "precision": f1 + 0.1, "recall": f1 - 0.1},
        "interval": {"f1": [f1 - 0.02, f1 + 0.03]},
        "wheels": {"wheel1": {"f1": f1 - 0.01}, "wheel2": {"f1": f1 + 0.01}},
        "words_per_answer": 1.875,
        "distinct_words": 1.5,
        "repeated_words": 0.375,
        "format_rate": 0.985,
        "unmapped_rate": 0.02,
        "without": {"video": {"f1": f1 - 0.09, "drop": 0.09, "interval": [0.05, 0.13]}},
    }


@pytest.fixture
def summary():
    return {
        "synthetic": True,
        "lexicon": "bundled",
        "num_clips": 600,
        "experiment": "tiny",
        "split": "test",
        "runs": {},
        "sft": _system(0.671),
        "control": _system(0.788),
        "grpo": _system(0.87),
        "baselines": {"happy, sad, angry": {"mean_level1": {"f1": 0.328, "precision": 0.3, "recall": 0.36}}},
        "differences": {
            "grpo_minus_sft": {"f1": 0.199, "interval": [0.15, 0.25]},
            "grpo_minus_control": {"f1": 0.082, "interval": [-0.01, 0.174]},
        },
    }


def _cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {start} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_rows_are_in_points(summary):
    scores, answers, wheels, drops, differences = (table_text(table) for table in evaluation_tables(summary))
    assert _cells(scores, "SFT") == ["SFT", "67.1 [65.1, 70.1]", "77.1", "57.1"]
    assert _cells(scores, "always") == ["always “happy, sad, angry”", "32.8", "30.0", "36.0"]
    assert _cells(answers, "GRPO") == ["GRPO", "1.88", "1.50", "0.38", "98.5", "2.0"]
    assert _cells(wheels, "control") == ["control", "77.8", "79.8"]
    assert _cells(drops, "GRPO") == ["GRPO", "+9.0 [+5.0, +13.0]"]
    assert _cells(differences, "GRPO - SFT") == ["GRPO - SFT", "+19.9 [+15.0, +25.0]"]
    assert _cells(differences, "GRPO - control") == ["GRPO - control", "+8.2 [-1.0, +17.4]"]


def table_text(table):
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_every_title_says_synthetic_only_of_synthetic_clips(summary):
    assert all("600 synthetic clips" in table.title for table in evaluation_tables(summary))
    summary["synthetic"] = False
    assert "synthetic" not in tables_text(summary)


def test_absent_systems_have_no_row(summary):
    for key in ("control", "grpo", "differences", "baselines"):
        del summary[key]
    assert comparison_table(summary).row_count == 1
    assert modality_table(summary).row_count == 1
    assert len(evaluation_tables(summary)) == 4


def test_tables_fit_a_terminal_of_80_columns(summary):
    from rich.console import Console

    console = Console(width=80)
    for table in evaluation_tables(summary):
        with console.capture() as capture:
            console.print(table)
        assert "…" not in capture.get()


def test_metrics_by_log_name(summary):
    metrics = evaluation_metrics(summary)
    assert metrics["test/sft/f1"] == 0.671
    assert metrics["test/grpo/without_video/drop"] == 0.09
    assert metrics["test/grpo_minus_control/f1"] == 0.082
    assert len(metrics) == 3 * 10 + 2


def test_the_judged_run_shows_its_own_score(summary, logger, outputs):
    run = outputs / "demo" / "grpo"
    trained = TrackedMLFlowLogger(outputs, "demo", run_name="grpo", run_folder=run)
    trained.keep_run_id()
    facts = {"stage": "grpo", "step": 275, "seed": 1, "git_commit": None, "finished": True}
    summary["runs"] = {"grpo": {"checkpoint": "demo/grpo/checkpoints/best.ckpt", **facts}}
    row = {
        "name": "a",
        "target": ["happy"],
        "openset": ["glad", "glad"],
        "completion": "<script>alert(1)</script> <answer> glad, glad </answer>",
    }
    write_text(
        outputs / "evaluation" / "predictions" / "grpo.jsonl",
        "".join(
            json_line({**row, "name": name, "well_formed": False, "f1": 0.5, "without": {"audio": []}}) for name in "ab"
        ),
    )
    trained.log_checkpoint(run / "checkpoints" / "best.ckpt", 275)
    logger.log_data("ab" * 32, synthetic=True, files=[LabelFile("test", outputs / "test.csv", "ab" * 32, 600)])
    for _ in range(2):  # the second evaluation replaces the traces of the first
        log_evaluation([logger], summary, outputs / "evaluation")
    judged = logger.experiment.get_run(trained.run_id).data
    assert (judged.metrics["test/f1"], judged.metrics["test/num_clips"]) == (0.87, 600.0)
    assert judged.metrics["test/answers/format_rate"] == 0.985
    assert not {"test/format_rate", "test/words_per_answer"} & judged.metrics.keys()
    assert judged.tags["evaluation"] == logger.run_id
    (output,) = logger.experiment.get_run(trained.run_id).outputs.model_outputs
    scores = logger.experiment.get_logged_model(output.model_id).metrics
    assert {metric.dataset_name for metric in scores if metric.key == "test/f1"} == {"test.csv"}
    trace, second = logger.experiment.search_traces([trained.experiment_id])
    found = {assessment.name: assessment.value for assessment in trace.info.assessments}
    rewards = {"reward/accuracy": 0.5, "reward/format": False, "reward/repetition": -0.5}
    marks = {"words": 2, "all_distinct": False, "has_words": True, "well_formed": False}
    assert found == {"target": "happy", "f1": 0.5, **marks, **rewards}
    assert trace.info.trace_metadata["mlflow.sourceRun"] == trained.run_id
    assert trace.data.spans[0].outputs["labels"] == ["glad", "glad"]
    assert second.data.spans[0].start_time_ns // 1_000_000 == second.info.request_time  # else it seems to take time


def test_files_and_artifacts(summary, logger, read_artifact, tmp_path):
    csv_logger = CSVLogger(tmp_path, name="csv")
    summary["sft"]["unmapped_rate"] = float("nan")
    log_evaluation([logger, csv_logger], summary, tmp_path / "evaluation")
    logged = logger.experiment.get_run(logger.run_id).data.metrics
    assert (logged["test/sft/f1"], logged["test/grpo/format_rate"]) == (0.671, 0.985)
    assert "test/sft/f1" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
    kept = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert kept["grpo"]["mean_level1"]["f1"] == 0.87
    assert kept["sft"]["unmapped_rate"] is None
    assert json.loads(read_artifact("evaluation/summary.json")) == kept
    table = json.loads(read_artifact("evaluation/table.json"))
    first = dict(zip(table["columns"], table["data"][0], strict=True))
    assert (first["system"], first["f1"], first["f1_low"]) == ("SFT", 0.671, pytest.approx(0.651))
    assert "600 synthetic clips" in read_artifact("evaluation/tables.txt")
