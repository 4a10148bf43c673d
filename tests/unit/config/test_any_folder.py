"""An installed package runs from any working directory; its configs are in the wheel."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import affectgpt_r1
from affectgpt_r1.config.keys import CONFIGS

CLONE = Path(__file__).parents[3]


def test_a_clone_has_its_configs_at_the_top():
    assert CONFIGS == CLONE / "configs"


def test_the_wheel_carries_the_configs_where_the_package_looks_for_them():
    wheel = tomllib.loads((CLONE / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert wheel["only-include"] == ["src/affectgpt_r1", "configs"]
    assert wheel["sources"] == {"src/affectgpt_r1": "affectgpt_r1", "configs": "affectgpt_r1/configs"}


def test_the_working_directory_is_the_root_whatever_its_name(tmp_path):
    # As pip lays the wheel out; links instead of copies, so that a write into the package would show in the clone.
    site, work = tmp_path / "site", tmp_path / "Ordner mit Ümlaut"
    (site / "affectgpt_r1").mkdir(parents=True)
    work.mkdir()
    for entry in Path(affectgpt_r1.__file__).parent.iterdir():
        if entry.name != "__pycache__":
            (site / "affectgpt_r1" / entry.name).symlink_to(entry)
    (site / "affectgpt_r1" / "configs").symlink_to(CONFIGS)
    # Hydra composes the run and prints it; `CONFIGS` is resolved below `site`, since Python does not follow the links.
    code = (
        "import affectgpt_r1.config.keys as keys; print(keys.CONFIGS);"
        "from hydra import compose, initialize_config_dir; import affectgpt_r1.config.compose as ours;"
        "initialize_config_dir(str(keys.CONFIGS), version_base='1.3').__enter__();"
        "paths = compose('train').paths; print(paths.root, paths.data, paths.outputs, paths.weights, sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=120)

    assert done.stdout.splitlines() == [
        str(site / "affectgpt_r1" / "configs"),
        *map(str, (work, work / "data" / "synthetic", work / "outputs", work / "data" / "pretrained")),
    ], done.stderr
    assert list(work.iterdir()) == []
