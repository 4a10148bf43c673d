"""Look for the weights, tokenizers and checkpoints that the run of a configuration starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from safetensors import SafetensorError, safe_open

from affectgpt_r1.config.doctor.finding import Finding, faults_of
from affectgpt_r1.config.initial_policy import settle_settings
from affectgpt_r1.config.instantiate import take_exported_model
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import load_tokenizer
from affectgpt_r1.policy.build_policy import family_of
from affectgpt_r1.policy.checkpoint import check_there
from affectgpt_r1.policy.pretrained import (
    check_pretrained_folder,
    check_provenance,
    local_weights,
    only_local,
    weights_missing,
)

GIB = 2**30


def look_at_weights(settings: dict[str, Any]) -> list[Finding]:
    """Check the folder of every pretrained part, and the tokenizer; nothing is fetched, and no weights are loaded."""
    model, findings = settings["model"], list[Finding]()
    weights = model.get("weights")
    parts = ("language_model", *family_of(model).parts)
    for part in parts:
        named = model.get(part) or {}
        if named.get("pretrained") is not None:
            with faults_of("weights", findings):
                findings.append(_pretrained(part, named, weights))
    tokenizer = str(model["tokenizer"])
    source = Path(local_weights(tokenizer, weights))
    is_part = any((model.get(part) or {}).get("pretrained") == tokenizer for part in parts)
    if source.suffix == ".json" or source.is_dir():
        rendered = settings.get("synthetic") and source.suffix == ".json"
        with faults_of("tokenizer", findings, "affectgpt-r1 render" if rendered else ""):
            findings.append(Finding("tokenizer", "ok", f"{source}: {len(load_tokenizer(tokenizer, weights)):,} tokens"))
    elif not is_part:  # else what is said of the part is true of its tokenizer
        with faults_of("tokenizer", findings):
            findings.append(_on_hub("tokenizer", tokenizer, weights))
    return findings


def _pretrained(part: str, named: dict[str, Any], weights: str | None) -> Finding:
    pretrained = str(named["pretrained"])
    folder = Path(local_weights(pretrained, weights))
    if not folder.is_dir():
        return _on_hub(part, pretrained, weights)
    check_pretrained_folder(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        lacking = "*.safetensors" if not files else "config.json"
        raise ConfigError(weights_missing(part, pretrained, weights, FileNotFoundError(f"{folder} has no {lacking}")))
    for file in files:
        try:
            with safe_open(file, "pt"):  # reads the header, and compares it with the file's size
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{file}: damaged or cut short ({error}); fetch it again") from error
    if named.get("source_sha256") is not None:
        check_provenance(part, str(folder), named["source_sha256"])
    size = sum(file.stat().st_size for file in files) / GIB
    return Finding("weights", "ok", f"{part}: {folder}, {size:.2f} GiB in {len(files)} file{'s' * (len(files) > 1)}")


def _on_hub(part: str, pretrained: str, weights: str | None) -> Finding:
    if only_local(pretrained):
        raise ConfigError(
            weights_missing(part, pretrained, weights, OSError("not on this machine, nor does a hub answer"))
        )
    folder = Path(weights) / Path(pretrained).name if weights is not None else Path(pretrained)
    text = f"{part}: {pretrained} is not on this machine; the run fetches it from the hub"
    return Finding("weights", "warning", text, f"hf download {pretrained} --local-dir {folder}")


def look_at_starts(config: DictConfig) -> list[Finding]:
    """Check the checkpoints that the run starts from, and that the policy was trained for what the run asks of it."""
    findings: list[Finding] = []
    complete = True
    for key, remedy in (("init_from", ""), ("encoders_from", "affectgpt-r1 train experiment=demo/pretrain_encoders")):
        path = config.get(key)
        if path is None:
            continue
        before = len(findings)
        with faults_of(key, findings, remedy if config.synthetic else ""):
            check_there(path)
            findings.append(Finding(key, "ok", str(path)))
        complete = complete and findings[before].state == "ok"
    run = config.get("match_wall_time")
    if run is not None and not Path(run).is_file():
        text = f"No run at {run}, whose wall time this run is to match: train it first"
        findings.append(Finding("match_wall_time", "problem", text))
        complete = False
    if complete:
        with faults_of("init_from", findings):
            take_exported_model(config)
            settle_settings(config)
    with faults_of("lexicon", findings):
        lexicon = load_lexicon(config.emotion.lexicon)
        findings.append(Finding("lexicon", "ok", f"{lexicon.name}"))
    return findings
