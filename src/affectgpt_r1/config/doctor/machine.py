"""Look at Python, packages, devices, decoders, disk, memory and the MLflow database."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from packaging.requirements import Requirement

from affectgpt_r1.config.doctor.finding import Finding, faults_of
from affectgpt_r1.data.clip_reader import read_pictures, read_sound
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.data.media.audio import SAMPLE_RATE, resample
from affectgpt_r1.data.media.faces import face_crops
from affectgpt_r1.data.synthetic.media_files import write_mp4
from affectgpt_r1.errors import ConfigError, MediaError
from affectgpt_r1.tracking.database import DATABASE_NAME, check_intact, is_database

_DISTRIBUTION = "affectgpt-r1"
_FPS, _SIZE, _SECONDS = 8, 64, 2
GIB = 2**30


def look_at_python() -> list[Finding]:
    """Compare Python and the installed packages with what this package asks for."""
    findings = [Finding("Python", "ok", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")]
    try:
        required = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return [*findings, Finding("packages", "warning", f"{_DISTRIBUTION} is not installed", "make setup")]
    wanted = [Requirement(line) for line in required]
    wanted = [package for package in wanted if package.marker is None or package.marker.evaluate({"extra": "train"})]
    wrong = []
    for package in wanted:
        try:
            version = metadata.version(package.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{package.name} is not installed ({package.specifier or 'any version'})")
            continue
        if not package.specifier.contains(version, prereleases=True):
            wrong.append(f"{package.name} is {version}, not {package.specifier}")
    remedy = "pip install 'affectgpt-r1[train]', or `make setup` in a clone"
    if wrong:
        return [*findings, *(Finding("packages", "problem", line, remedy) for line in wrong)]
    return [*findings, Finding("packages", "ok", f"{len(wanted)} of {len(wanted)} as required")]


def look_at_devices(settings: dict[str, Any], needed: dict[str, Any] | None) -> list[Finding]:
    """Look for the devices, the precision and the device memory that the run needs.

    Args:
        settings: The resolved configuration.
        needed: From :func:`affectgpt_r1.config.estimate.estimate`; None where it could not be made.
    """
    trainer = settings["trainer"]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
    findings = [Finding("torch", "ok", f"{torch.__version__}, built {built}; GPUs: {', '.join(names) or 'none'}")]
    wants_gpu = trainer.get("accelerator") in ("gpu", "cuda")
    if wants_gpu and not count:
        remedy = "install a torch for the GPU's CUDA (https://pytorch.org/get-started/locally), or give trainer=cpu"
        findings.append(Finding("torch", "problem", "the run asks for a GPU (trainer.accelerator=gpu)", remedy))
    devices = trainer.get("devices")
    if wants_gpu and count and isinstance(devices, int) and devices > count:
        text = f"the run asks for {devices} GPUs (trainer.devices), and there are {count}"
        findings.append(Finding("torch", "problem", text, f"trainer.devices={count}"))
    parts = [part for part in settings["model"].values() if isinstance(part, dict)]
    if "bf16" in str(trainer.get("precision")) or any(part.get("dtype") == "bfloat16" for part in parts):
        findings.append(_bfloat16(count if wants_gpu else 0))
    if wants_gpu and count and needed is not None:
        findings.append(_gpu_memory(settings, needed))
    return findings


def _bfloat16(count: int) -> Finding:
    if not count:
        return Finding("bf16", "warning", "the run uses bfloat16, which a CPU computes slowly")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding("bf16", "ok", "the GPU computes in bfloat16")
    text = "the GPU only emulates bfloat16, slowly"
    return Finding("bf16", "warning", text, "trainer.precision=16-mixed model.language_model.dtype=float16")


def _gpu_memory(settings: dict[str, Any], needed: dict[str, Any]) -> Finding:
    has = torch.cuda.get_device_properties(0).total_memory / GIB
    stage = "grpo" if "num_generations" in settings["stage"] else "sft"
    strategy = "fsdp" if "fsdp" in str(settings["trainer"].get("strategy")) else "ddp"
    wants = needed["memory_gib"][stage][strategy]
    text = f"{has:.0f} GiB on the first GPU; the run needs about {wants:.0f} (`affectgpt-r1 plan`)"
    if wants <= has:
        return Finding("GPU memory", "ok", text)
    remedy = "model.gradient_checkpointing=true, or lower data.batch_size and raise trainer.accumulate_grad_batches"
    return Finding("GPU memory", "problem", text, remedy)


def look_at_decoders(settings: dict[str, Any]) -> list[Finding]:
    """Write a clip with FFmpeg and read it back with every decoder, in the decoding process as in a run."""
    data, findings = settings["data"], list[Finding]()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        with faults_of("FFmpeg", findings, "pip install --force-reinstall av"):
            gray = np.arange(_FPS * _SECONDS, dtype=np.uint8)[:, None, None, None] * 8
            frames = np.broadcast_to(gray, (_FPS * _SECONDS, _SIZE, _SIZE, 3))
            write_mp4(clip, np.ascontiguousarray(frames), np.zeros(SAMPLE_RATE * _SECONDS, np.float32), _FPS)
            read_sound(clip, MediaSettings())
            version = getattr(av, "ffmpeg_version_info", "FFmpeg")
            findings.append(
                Finding("FFmpeg", "ok", f"{version} in PyAV {av.__version__}: H.264 and AAC written and read")
            )
        for decoder in ("pyav", "decord"):
            findings.append(_decoder(clip, decoder, str(data["decoder"])))
    if "audio" in data["modalities"]:
        with faults_of("torchaudio", findings):
            resample(torch.zeros(44_100), 44_100)
            findings.append(Finding("torchaudio", "ok", f"{metadata.version('torchaudio')} resamples"))
    findings.append(_face_detector())
    return findings


def _decoder(clip: Path, decoder: str, chosen: str) -> Finding:
    try:
        read_pictures(clip, MediaSettings(decoder=decoder, num_frames=4))
    except (ConfigError, MediaError) as error:
        is_needed = decoder == chosen or (decoder == "pyav" and chosen == "auto")
        remedy = "data.decoder=pyav reads without it" if decoder == "decord" else "pip install --force-reinstall av"
        return Finding(decoder, "problem" if is_needed else "warning", str(error), remedy)
    version = metadata.version("av" if decoder == "pyav" else decoder)
    return Finding(decoder, "ok", f"{version} decodes a clip")


def _face_detector() -> Finding:
    try:
        face_crops([np.zeros((_SIZE, _SIZE, 3), np.uint8)])
    except ConfigError as error:  # training reads crops that are on the disk
        return Finding("faces", "warning", f"only `affectgpt-r1 predict` on videos needs them: {error}")
    return Finding(
        "faces", "ok", f"facenet-pytorch {metadata.version('facenet-pytorch')} runs (for `predict` on videos)"
    )


def look_at_disk(settings: dict[str, Any], needed: dict[str, Any] | None, num_clips: int) -> list[Finding]:
    """Compare free disk space below ``paths.outputs`` and free memory with what the run will take."""
    outputs = Path(settings["paths"]["outputs"])
    folder = next(path for path in (outputs.absolute(), *outputs.absolute().parents) if path.exists())
    findings = []
    if not os.access(folder, os.W_OK | os.X_OK):
        findings.append(Finding("disk", "problem", f"{folder} may not be written to", "paths.outputs=FOLDER"))
    free = shutil.disk_usage(folder).free / GIB
    wants = 0.0
    if needed is not None:
        # The best and the last checkpoint: float32 weights that train, and in the last one AdamW's two moments.
        wants = (needed["trainable_parameters"] * 16 + needed["feature_bytes_per_clip"] * num_clips) / GIB
    text = f"{free:.1f} GiB free at {folder}; features and checkpoints of the run take about {wants:.1f}"
    enough = free > wants
    findings.append(Finding("disk", "ok" if enough else "problem", text, "" if enough else "paths.outputs=FOLDER"))
    available = _available_memory()
    if available is not None and needed is not None:
        findings.append(_memory(available / GIB, settings, needed))
    return findings


def _available_memory() -> int | None:
    """Return the bytes that a new process may take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _memory(available: float, settings: dict[str, Any], needed: dict[str, Any]) -> Finding:
    if settings["trainer"].get("accelerator") in ("gpu", "cuda"):
        wants = needed["total_parameters"] * 2 / GIB  # bfloat16 weights on their way to the GPU
    else:
        wants = needed["memory_gib"]["grpo" if "num_generations" in settings["stage"] else "sft"]["ddp"]
    text = f"{available:.1f} GiB of memory available; the run needs about {wants:.1f}"
    if wants <= available:
        return Finding("memory", "ok", text)
    return Finding("memory", "problem", text, "lower data.batch_size, or take a smaller model=")


def look_at_tracking(settings: dict[str, Any]) -> list[Finding]:
    """Check the MLflow database that the run would log to; none is made."""
    findings: list[Finding] = []
    for logger in (settings.get("logger") or {}).values():
        if not isinstance(logger, dict) or "MLFlow" not in str(logger.get("_target_")) or "folder" not in logger:
            continue
        database = Path(logger["folder"]) / DATABASE_NAME
        with faults_of("MLflow", findings):
            if is_database(database):
                check_intact(database)
                findings.append(Finding("MLflow", "ok", f"{database} is intact"))
            else:
                findings.append(Finding("MLflow", "ok", f"{database} will be made by the first run"))
    return findings
