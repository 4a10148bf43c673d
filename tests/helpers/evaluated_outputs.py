"""A small outputs folder as `make grpo` leaves it: three policies' runs in MLflow, their answers and the evaluation."""

import json

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1, score_table
from affectgpt_r1.tracking.database import ensure_experiment

ANSWERS = {  # clip: target, then what SFT, control and GRPO say
    "clip0": (["happy"], ["sad"], ["joyful"], ["happy", "happy"]),
    "clip1": (["sad"], ["sad"], ["sad"], ["lonely"]),
    "clip2": (["angry", "afraid"], ["angry"], ["angry", "nervous"], ["annoyed", "afraid"]),
    "clip3": (["surprised"], [], ["happy"], ["surprised"]),
}
SYSTEMS = ("sft", "control", "grpo")
GROUP = [("<answer>happy</answer>", 1.0, 0.8), ("<answer>sad</answer>", 0.0, -0.9), ("happy", 0.5, 0.1)]


def write_evaluation(outputs, seed=1, name="demo-no_think"):
    """Write runs, answers and scores of one seed; returns the ids of the MLflow runs by system."""
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    experiment = f"{name}-seed{seed}"
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment_id = ensure_experiment(uri, experiment, outputs / "artifacts")
    lexicon = load_lexicon("bundled")
    targets = [tuple(row[0]) for row in ANSWERS.values()]
    summary = {"synthetic": True, "lexicon": "bundled", "experiment": experiment, "split": "test", "runs": {}}
    run_ids = {}
    for place, system in enumerate(SYSTEMS, start=1):
        tags = {"stage": system, "experiment": experiment, "command": f"affectgpt-r1 train experiment=demo/{system}",
                "git_commit": f"{place}{seed}" * 20, "synthetic": "true", "mlflow.user": "root"}  # fmt: skip
        run_id = client.create_run(experiment_id, run_name=f"{system}-seed{seed}", tags=tags).info.run_id
        client.log_param(run_id, "seed", seed)
        curves = {"val/f1": 0.4 + 0.1 * place, "val/answers/distinct_words": 1.5}
        if system == "grpo":
            curves |= {"train/reward": 0.5, "train/frac_reward_zero_std": 0.25, "train/completions/mean_length": 9.0}
        points = [Metric(key, value + 0.01 * step, 0, step) for key, value in curves.items() for step in (9, 19, 29)]
        client.log_batch(run_id, metrics=points)
        if system == "grpo":
            rows = [
                [30, "clip0", "happy", completion, accuracy, 1.0, 0.8 * accuracy + 0.2, advantage, "How do they feel?"]
                for completion, accuracy, advantage in GROUP
            ]
            columns = ["step", "name", "target", "completion", "accuracy", "format", "reward", "advantage", "prompt"]
            client.log_text(run_id, json.dumps({"columns": columns, "data": rows}), "completions/step_000030.json")
        client.set_terminated(run_id)
        run_ids[system] = run_id

        folder = outputs / experiment / system
        folder.mkdir(parents=True)
        (folder / "mlflow_run_id").write_text(f"{run_id}\n")
        said = [tuple(row[place]) for row in ANSWERS.values()]
        scores = batch_mean_set_f1(said, targets, lexicon)
        lines = [
            {"name": clip, "target": target, "openset": words, "completion": f"<answer>{words}</answer>", "f1": f1}
            for clip, target, words, f1 in zip(ANSWERS, targets, said, scores, strict=True)
        ]  # fmt: skip
        predictions = outputs / experiment / "predictions"
        predictions.mkdir(exist_ok=True)
        (predictions / f"{system}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        summary["runs"][system] = {"checkpoint": f"{experiment}/{system}/checkpoints/best.ckpt", "seed": seed}
        summary[system] = {
            "mean_level1": dict(score_table(said, targets, lexicon)["mean_level1"]),
            "distinct_words": sum(len(set(words)) for words in said) / len(said),
            "target_words": 1.25,
            "without": {modality: {"f1": 0.1, "drop": 0.1 * place} for modality in ("video", "audio", "text")},
        }
    (outputs / experiment / "summary.json").write_text(json.dumps(summary))
    return run_ids
