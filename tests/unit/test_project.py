"""pyproject.toml is the only list of dependencies; the files next to it must agree."""

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from affectgpt_r1 import __version__
from affectgpt_r1.config.keys import config_keys
from helpers.documents import DOCUMENTS, code_blocks

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED = [
    Requirement(line)
    for line in (*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["app"], *EXTRAS["dev"])
    if not line.startswith("affectgpt-r1[")
]
README = "\n".join((REPOSITORY / document).read_text("utf-8") for document in DOCUMENTS)
SWITCHES = (REPOSITORY / "configs" / "README.md").read_text("utf-8")
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def constraints():
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


UNSTATED = {"facenet_pytorch", "atheris"}
"""The first's wheel asks for torch below 2.3 and works with today's, so `make setup` installs it without dependencies.
The second has wheels for few systems; the slow tests that fuzz with it skip where it is not installed."""

PINS = {canonicalize_name(pin.name): pin for pin in constraints()}


def pinned_version(name):
    (specifier,) = PINS[canonicalize_name(name)].specifier
    return Version(specifier.version)


@pytest.mark.parametrize("requirement", INSTALLED, ids=lambda requirement: requirement.name)
def test_constraints_pin_every_dependency_within_its_specifier(requirement):
    assert requirement.specifier.contains(pinned_version(requirement.name), prereleases=False)


def test_constraints_are_exact_pins_each_once_and_in_order():
    pins = constraints()

    assert [[part.operator for part in pin.specifier] for pin in pins] == [["=="]] * len(pins)
    assert len(PINS) == len(pins)
    names = [str(pin).lower() for pin in pins]
    assert names == sorted(names)


def test_constraints_serve_other_builds_of_torch():
    assert not [name for name in PINS if name.startswith(("nvidia-", "cuda-")) or name == "triton"]
    assert all(pin.marker is None and pin.url is None for pin in PINS.values())
    assert PINS["torch"].specifier.contains(Version("2.14.1+cpu"))


def test_the_bad_releases_of_lightning_are_refused():
    (lightning,) = (requirement for requirement in INSTALLED if requirement.name == "lightning")

    assert not lightning.specifier.contains("2.6.2")
    assert not lightning.specifier.contains("2.6.3")


def test_conda_environment_adds_python_and_pip_only():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text("utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    python, installer = conda

    assert environment["name"] == PROJECT["name"]
    assert python == "python=3.11"
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert installer == "pip"
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert "dev" in EXTRAS


def imported_packages(folder):
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.split(".")[0]


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_every_import_is_a_stated_dependency(folder):
    distributions = packages_distributions()
    stated = {canonicalize_name(requirement.name) for requirement in INSTALLED}
    foreign = set(imported_packages(folder)) - sys.stdlib_module_names - {"affectgpt_r1"}
    foreign -= UNSTATED
    if folder == "tests":
        foreign -= {"helpers", "tools", *(path.stem for path in (REPOSITORY / "tests" / "benchmarks").glob("*.py"))}

    undeclared = {
        package for package in foreign if stated.isdisjoint(map(canonicalize_name, distributions.get(package, [])))
    }

    assert len(foreign) > 5
    # decord is installed on Linux x86-64 only.
    assert undeclared <= ({"decord"} if "decord" not in distributions else set())


def test_console_script_names_a_function():
    from importlib import import_module

    module, function = PROJECT["scripts"]["affectgpt-r1"].split(":")

    assert callable(getattr(import_module(module), function))


def test_licence_is_the_one_that_the_project_states():
    text = (REPOSITORY / "LICENSE").read_text("utf-8")

    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "Copyright 2026 The affectgpt-r1 authors" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_stripped_and_defines_nothing(path):
    notebook = json.loads(path.read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    assert notebook["nbformat"] == 4
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    lines = [line for cell in code for line in "".join(cell["source"]).splitlines()]
    assert any("affectgpt_r1" in line for line in lines)
    assert not [line for line in lines if line.lstrip().startswith(("def ", "class ", "async def ", "!", "%"))]


def readme_switches():
    """``(group, choice)`` of every row of the tables of switches whose override names a config group."""
    rows = re.findall(r"^\| `(\w+)=`[^|]*\| ([^|]+)\|$", SWITCHES, flags=re.MULTILINE)
    for group, choices in rows:
        if (REPOSITORY / "configs" / group).is_dir():
            yield from ((group, choice) for choice in re.findall(r"`(\w+)`", choices) if choice != "null")


def test_readme_names_targets_that_exist():
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    commands = [command for document in DOCUMENTS for block in code_blocks(document) for command in block.commands]
    lines = re.findall(r"`make ([a-z -]+)", README) + re.findall(r"^make ([a-z -]+)", "\n".join(commands), flags=re.M)
    named = {target for line in lines for target in line.split()}

    assert named >= {"grpo", "ablations", "mlflow", "lint", "test", "figures"}
    assert named <= targets


def test_readme_names_choices_that_exist():
    choices = list(readme_switches())

    assert len(choices) > 15
    assert [
        choice for choice in choices if not (REPOSITORY / "configs" / choice[0] / f"{choice[1]}.yaml").exists()
    ] == []


def test_readme_names_keys_that_exist():
    known = config_keys()
    keys = set(re.findall(r"`((?:stage|data|model|prompt|penalty|paths|optim|emotion)\.[a-z_.]+)=", README + SWITCHES))

    assert len(keys) > 8
    assert keys - known == set()


def test_documents_name_experiments_that_exist():
    named = set(re.findall(r"(?:experiment=|`)((?:demo|smol|affectgpt\w*|r1_omni)/\w+)", README))

    assert len(named) > 10
    assert [name for name in named if not (REPOSITORY / "configs" / "experiment" / f"{name}.yaml").exists()] == []


def test_citation_has_the_version_and_licence_of_the_project():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))

    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["license"]) == (PROJECT["name"], PROJECT["license"])
    assert citation["version"] == __version__


def test_pre_commit_installs_the_versions_that_are_pinned_elsewhere():
    (local,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    versions = {hook["id"]: Requirement(*hook["additional_dependencies"]) for hook in local["hooks"]}
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text("utf-8")

    assert list(versions) == ["ruff-check", "ruff-format", "yamllint", "nbstripout"]
    assert str(versions["ruff-check"]) == str(versions["ruff-format"]) == f"ruff=={pinned_version('ruff')}"
    assert f"pipx run {versions['yamllint']} " in workflow


def test_workflow_runs_make_on_three_pythons_from_pinned_actions():
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    jobs = workflow["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]

    assert jobs["test"]["strategy"]["matrix"]["python-version"] == ["3.11", "3.12", "3.13"]
    assert {step["run"] for step in steps if "run" in step} >= {"make setup PYTHON=python", "make lint", "make test"}
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)
    assert workflow["permissions"] == {"contents": "read"}
