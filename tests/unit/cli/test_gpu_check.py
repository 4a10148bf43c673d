"""The check of a GPU, in small on the CPU: what it measures, what it prints, and when it fails."""

import json

import pytest
import torch

from affectgpt_r1.cli.gpu_check import PARTS as NAMES
from affectgpt_r1.cli.gpu_check import main
from affectgpt_r1.config import device_tests, gpu_check
from affectgpt_r1.config.check_parts import Limit, Part
from affectgpt_r1.config.gpu_check import PARTS


def test_every_number_is_right_on_a_cpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device_tests, "_ROOT", tmp_path)  # an installed wheel has no tests to run
    main(["--tiny", "--json", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [part["name"] for part in found["parts"]] == list(NAMES) == list(PARTS)
    assert found["machine"]["torch"] == torch.__version__
    limits = [limit for part in found["parts"] for limit in part["limits"]]
    assert len(limits) == 24
    assert [limit for limit in limits if not limit["holds"]] == []
    printed = capsys.readouterr().out
    assert "flash: error of output at logits +1000" in printed
    assert "not run: no tests here" in printed
    assert printed.endswith("No number is wrong\n")


def test_a_wrong_number_and_a_failure_are_named_and_the_others_run(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "attend_to_prefix", lambda query, *_: query)

    def fail(check, part):
        raise RuntimeError("no kernel")

    monkeypatch.setitem(PARTS, "decoding", (1, fail))
    monkeypatch.setitem(PARTS, "build", (1, lambda check, part: part.measured.update(seconds=0.0)))
    with pytest.raises(SystemExit) as stopped:
        main(["--tiny", "--only", "attention", "decoding"])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "RuntimeError: no kernel" in printed
    assert printed.endswith("Wrong: attention, decoding\n")


def test_a_failing_test_is_named(monkeypatch, tmp_path):
    file = tmp_path / "tests/unit/engine/test_mine_on_device.py"
    file.parent.mkdir(parents=True)
    file.write_text("def test_it():\n    assert False\n")
    monkeypatch.setattr(device_tests, "_ROOT", tmp_path)
    part = Part("device-tests")
    gpu_check.GPUCheck(tiny=True, budget=60.0).device_tests(part)
    assert part.is_wrong
    assert part.measured == {"tests": 1, "skipped": 0, "failed: test_it": 1.0}


def test_a_part_without_time_is_skipped_and_not_wrong(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    parts = gpu_check.GPUCheck(tiny=False, budget=0.0).run()
    assert [part.is_wrong for part in parts] == [False] * len(PARTS)
    assert parts[0].skipped == "0 s are left, and it may need 20" or parts[0].skipped.startswith("-0 s")


def test_aims_and_bounds():
    aim, bound = Limit("a", 2.0, 1.0, is_aim=True), Limit("b", 2.0, 1.0)
    assert not Part("p", [aim]).is_wrong
    assert Part("p", [aim, bound]).is_wrong
    assert Part("p", [Limit("c", float("nan"), 1.0)]).is_wrong
    assert not Part("p", [Limit("d", 2.0, 1.0, at_most=False)]).is_wrong


def test_without_a_gpu_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("affectgpt-r1 gpu-check: no CUDA device is visible: run this on the")
