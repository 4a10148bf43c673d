import errno
import re
import sqlite3

import pytest
import yaml
from torch.utils.data import DataLoader, Dataset

from affectgpt_r1.config.library_errors import explain_library_error
from affectgpt_r1.errors import DataError


class Refusing(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("labels.csv: row 3 is bad")


def test_an_error_of_a_worker_comes_without_its_traceback():
    with pytest.raises(DataError) as caught:
        list(DataLoader(Refusing(), num_workers=1))
    assert "Traceback" in str(caught.value)
    assert explain_library_error(caught.value) == "labels.csv: row 3 is bad"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), r"x{200}…: File name too long; .* 255 bytes"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a"), r"/out/a: No space left on device; make room"),
        (OSError(errno.EMFILE, "Too many open files", "/c.mp4"), r"ulimit -n"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "lower data.num_workers"),
        (MemoryError(), r"out of memory \(MemoryError\); lower data.batch_size"),
    ],
)
def test_limits_of_the_machine_are_one_line_with_a_remedy(error, said):
    line = explain_library_error(error)
    assert re.search(said, line)
    assert "\n" not in line


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("stage:\n\tbeta: 1\n")
    with pytest.raises(yaml.YAMLError) as caught, (tmp_path / "mine.yaml").open() as file:
        yaml.safe_load(file)
    assert "mine.yaml, line 2, column 1: found character '\\t'" in explain_library_error(caught.value)


def test_an_error_of_the_program_keeps_its_traceback():
    assert explain_library_error(RuntimeError("index out of range")) is None
    assert explain_library_error(OSError(errno.ENOENT, "No such file")) is None


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("database or disk is full", "make room"),
        ("attempt to write a readonly database", "make room, change its permissions"),
        ("database disk image is malformed", "it is damaged: move it away"),
        ("database is locked", "end the process"),
    ],
)
def test_what_mlflow_wraps_around_its_database_is_one_line(said, remedy):
    try:
        try:
            raise sqlite3.OperationalError(said)
        except sqlite3.Error as error:
            raise RuntimeError(
                f"(sqlite3.OperationalError) {said}\n[SQL: UPDATE runs]\n(Background: https://…)"
            ) from error
    except RuntimeError as error:
        line = explain_library_error(error)
    assert f"database cannot be written ({said}); {remedy}" in line
    assert "\n" not in line
