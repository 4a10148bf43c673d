"""Examine all that a run of a configuration needs, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.doctor.data_folder import look_at_data
from affectgpt_r1.config.doctor.finding import Finding, faults_of
from affectgpt_r1.config.doctor.machine import (
    look_at_decoders,
    look_at_devices,
    look_at_disk,
    look_at_python,
    look_at_tracking,
)
from affectgpt_r1.config.doctor.weights import look_at_starts, look_at_weights
from affectgpt_r1.config.estimate import estimate
from affectgpt_r1.config.preflight import check_settings
from affectgpt_r1.config.value_ranges import check_ranges
from affectgpt_r1.policy.pretrained import local_weights


def examine(config: DictConfig, num_decoded: int) -> list[Finding]:
    """Return everything that was found, good and bad; nothing is written.

    Args:
        config: The composed ``configs/train.yaml``; it is changed as a run changes it.
        num_decoded: Clips to decode besides those that look damaged; see
            :func:`~affectgpt_r1.data.folder_report.report_folder`.
    """
    findings: list[Finding] = []
    for check in (check_ranges, check_settings):
        with faults_of("settings", findings):
            check(config)
    settings = resolved(config)
    needed: dict[str, Any] | None = None
    with faults_of("model", findings):
        needed = _needs(settings, config)
    data, num_clips = look_at_data(config, num_decoded)
    findings += [
        *look_at_python(),
        *look_at_devices(settings, needed),
        *look_at_decoders(settings),
        *look_at_disk(settings, needed, num_clips),
        *look_at_tracking(settings),
        *look_at_weights(settings),
        *look_at_starts(config),
        *data,
    ]
    return findings


def _needs(settings: dict[str, Any], config: DictConfig) -> dict[str, Any] | None:
    """Return what the run needs; None where the tokenizer, which :func:`look_at_weights` tells of, is missing."""
    tokenizer = local_weights(str(settings["model"]["tokenizer"]), settings["model"].get("weights"))
    if tokenizer.endswith(".json") and not Path(tokenizer).is_file():
        return None
    return estimate(config, tflops=1.0, bandwidth=1.0)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as ``--json`` writes them."""
    return {
        "problems": sum(finding.state == "problem" for finding in findings),
        "warnings": sum(finding.state == "warning" for finding in findings),
        "findings": [
            {
                "part": finding.part,
                "state": finding.state,
                "text": finding.text,
                "remedy": finding.remedy,
                "items": list(finding.items),
            }
            for finding in findings
        ],
    }
