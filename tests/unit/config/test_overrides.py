import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.config.keys import CONFIGS, check_overrides, config_keys, text_keys
from affectgpt_r1.config.overrides import quote_overrides
from affectgpt_r1.errors import ConfigError


def value_of(override):
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize(
    "folder",
    [
        "/data/Übung",
        "/data/情感",
        "/data/clips (copy)",
        "/it's",
        "/k=v",
        'say "hi" (2)',
        "C:\\x (y)\\",
        "a#b",
        "/a;b",
        "/{x}",
    ],
)
def test_folders_are_taken_as_they_are(folder):
    with pytest.raises(HydraException):
        value_of(f"paths.data={folder}")
    assert value_of(quote_overrides([f"paths.data={folder}"])[0]) == folder


@given(st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=",~[{'\"$"), min_size=1))
def test_any_name_of_a_folder(name):
    value = value_of(quote_overrides([f"paths.data=/{name}"])[0])
    assert value == f"/{name}"


@pytest.mark.parametrize("name", ["1e-3", "1_000", "12", "nan", "0.5"])
def test_a_number_that_names_something_stays_text(name):
    assert value_of(quote_overrides([f"experiment_name={name}"])[0]) == name
    assert not isinstance(value_of(f"experiment_name={name}"), str)


@pytest.mark.parametrize(
    "override",
    [
        "stage.beta=0.04", "seed=1,2,3", "data.modalities=[video,text]", "init_from=null", "ablation=reward", "-m",
        "optim.scheduler.total_steps=100", "data.subtitles=null", "paths.data='/a b/it'", "prompt.question=Who is it?",
        "--cfg", "experiment=demo/grpo", "seed=range(1,4)", "paths.data=${paths.root}/x",
    ],
)  # fmt: skip
def test_what_hydra_reads_well_is_left_alone(override):
    assert quote_overrides([override]) == [override]


def test_what_cannot_be_read_names_its_key():
    with pytest.raises(ConfigError, match=r"data\.modalities: the value \[video,text cannot be read; quote it"):
        quote_overrides(["data.modalities=[video,text"])
    with pytest.raises(ConfigError, match=r"paths\.data=\$HOME"):
        quote_overrides(["paths.data=~/clips"])


def test_keys_of_text():
    assert {"experiment_name", "paths.data", "data.train_labels", "split"} <= text_keys()
    assert not {"seed", "stage.beta", "optim.scheduler.total_steps", "data.image_size"} & text_keys()


def test_null_leaves_out_a_group_that_a_run_can_do_without():
    given = [f"{group}=null" for group in ("experiment", "logger", "debug", "callbacks", "ablation", "model")]
    quoted = quote_overrides(given)
    assert quoted == ["~experiment", "logger=none", "~debug", "callbacks=none", "~ablation", "model=null"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", quoted[:-1])
    assert (config.logger, config.callbacks, config.trainer.max_steps) == ({}, {}, 1000)
    with pytest.raises(
        ConfigError,
        match=r"model=null: there is no .*there are affectgpt_7b, affectgpt_qwen3_8b, humanomni_05b, humanomni_tiny, "
        "light_mer, smol, tiny",
    ):
        check_overrides(quoted)


def test_overrides_of_the_makefile_are_accepted():
    """`make grpo` gives its control `overwrite=outdated`, which a check of true-or-false keys once refused."""
    makefile = (CONFIGS.parent / "Makefile").read_text()
    given = set(re.findall(r"(?<![\w.-])([a-z][\w.]*=[\w./-]+)(?=[\s,)])", makefile))
    overrides = [override for override in sorted(given) if override.split("=")[0] in config_keys()]
    overrides = [override for override in overrides if not override.endswith("=null")]  # rewritten before the check
    assert {"overwrite=outdated", "experiment=demo/grpo"} <= set(overrides)
    check_overrides(overrides)
