"""The scorer starts without torch and whatever else the extra `train` brings."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import affectgpt_r1
from affectgpt_r1.errors import DataError

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
IMPORTED_AS = {"hydra_core": "hydra", "pyyaml": "yaml", "pillow": "PIL", "hydra_joblib_launcher": "hydra_plugins"}
REFUSED = [
    IMPORTED_AS.get(name, name)
    for line in PROJECT["optional-dependencies"]["train"]
    for name in [re.split(r"[^\w-]", line)[0].lower().replace("-", "_")]
] + ["pyarrow"]  # MLflow brings it, and pandas would load it

WITHOUT_TRAIN = """
import sys
from importlib.abc import MetaPathFinder

refused, command = set(sys.argv[1].split(",")), sys.argv[2:]

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from affectgpt_r1.cli.main import main
main(command)
if sys.platform == "linux":  # not ru_maxrss, in which the size of the process that forked this one is
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


def run(*arguments):
    command = [sys.executable, "-c", WITHOUT_TRAIN, ",".join(REFUSED), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "140"})


def test_what_is_refused_is_what_train_brings():
    assert {"torch", "hydra", "lightning", "mlflow", "transformers", "yaml", "httpx2"} <= set(REFUSED)
    assert not {"numpy", "pandas", "openpyxl", "rich"} & set(REFUSED)


def test_score_and_submission_without_torch(tmp_path):
    (tmp_path / "t.csv").write_text('name,openset\na,happy\nb,"sad, angry"\n')
    (tmp_path / "p.jsonl").write_text('{"name": "a", "reason": "She is joyful."}\n{"name": "b", "openset": "sad"}\n')
    files = ("--predictions", tmp_path / "p.jsonl", "--targets", tmp_path / "t.csv", "--train", tmp_path / "t.csv")
    outputs = ("--json", tmp_path / "s.json", "--submission", tmp_path / "x-openset.npz")

    done = run("score", *files, *outputs, "--against", tmp_path / "t.csv", "--per-clip", tmp_path / "c.csv",
               "--html", tmp_path / "s.html", "--masked", f"audio={tmp_path / 't.csv'}")  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s.json").read_text())["scores"]["mean_level1"]["recall"] == 0.75
    assert (tmp_path / "x-openset.npz").is_file()
    assert "p.jsonl against t.csv" in (tmp_path / "s.html").read_text("utf-8")
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert (peak is None and sys.platform != "linux") or int(peak[1]) < 150 * 1024


def test_merge_without_torch(tmp_path):
    for name, labels in (("a", "happy"), ("b", "joyful"), ("c", "sad")):
        (tmp_path / f"{name}.csv").write_text(f"name,openset\nx,{labels}\n")

    done = run("merge", *(tmp_path / f"{name}.csv" for name in "abc"), "--output", tmp_path / "m.jsonl")

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"name": "x", "openset": ["happy"]}


def test_what_needs_the_rest_says_how_to_install_it():
    done = run("train")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "affectgpt-r1 train: hydra is not installed: pip install 'affectgpt-r1[train]'\n"


def test_version_is_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert run("--version").stdout == f"affectgpt-r1 {affectgpt_r1.__version__}\n"


def test_score_takes_files_mappings_and_sequences(tmp_path):
    (tmp_path / "t.csv").write_text('name,openset\na,happy\nb,"sad, angry"\n')
    by_name = {"b": ["sad"], "a": "happy, calm"}

    report = affectgpt_r1.score(by_name, tmp_path / "t.csv")

    assert report["scores"] == affectgpt_r1.score(["happy, calm", "sad"], [("happy",), ("sad", "angry")])["scores"]
    assert report["samples"] == 2
    with pytest.raises(DataError, match="1 clip"):
        affectgpt_r1.score({"a": "happy"}, tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"^predictions, a: labels are text or a list of texts, not 3$"):
        affectgpt_r1.score({"a": 3}, {"a": "happy"})
    with pytest.raises(DataError, match=r"^targets: there are no clips$"):
        affectgpt_r1.score(["happy"], [])
    with pytest.raises(AttributeError, match="has no attribute 'scores'"):
        _ = affectgpt_r1.scores
