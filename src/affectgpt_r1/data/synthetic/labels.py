"""Write the label files of a synthetic set in the published layout, and its recorded cues."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from affectgpt_r1.data.synthetic.captions import Channel
from affectgpt_r1.data.synthetic.clip_plan import ClipPlan
from affectgpt_r1.data.synthetic.emotion_words import CLUSTER_OF
from affectgpt_r1.data.synthetic.settings import SplitName
from affectgpt_r1.errors import DataError

CAPTION_LABELS = "track2_train_mercaptionplus.csv"
CAPTION_REASONS = "track3_train_mercaptionplus.csv"
EXACT_LABELS = "track2_train_ovmerd.csv"
EXACT_REASONS = "track3_train_ovmerd.csv"
VALIDATION_LABELS = "track2_validation.csv"
TEST_LABELS = "track2_test.csv"
CANDIDATES = "track_all_candidates.csv"
SUBTITLES = "subtitle_chieng.csv"
CUES_FILE = "cues.jsonl"

_MODALITY: dict[Channel, str] = {"face": "video", "voice": "audio", "words": "text"}


def label_files(plans: Sequence[ClipPlan]) -> dict[str, str]:
    """Return the content of every label file by its name."""
    of_split: dict[SplitName, list[ClipPlan]] = {"caption": [], "human": [], "validation": [], "test": []}
    for plan in plans:
        of_split[plan.split].append(plan)
    caption, human = of_split["caption"], of_split["human"]
    validation, test = of_split["validation"], of_split["test"]
    return {
        SUBTITLES: _csv(("name", "chinese", "english"), ((p.name, "", p.subtitle) for p in plans)),
        CAPTION_LABELS: _csv(("name", "openset"), ((p.name, f"[{', '.join(p.caption.words)}]") for p in caption)),
        CAPTION_REASONS: _csv(("name", "reason"), ((p.name, p.caption.reason) for p in caption)),
        EXACT_LABELS: _openset_csv(human),
        EXACT_REASONS: _csv(("name", "reason"), ((p.name, p.caption.reason) for p in human)),
        VALIDATION_LABELS: _openset_csv(validation),
        TEST_LABELS: _openset_csv(test),
        CANDIDATES: _csv(("name",), ((p.name,) for p in (*validation, *test))),
        CUES_FILE: "".join(f"{json.dumps(_sidecar_row(plan))}\n" for plan in plans),
    }


def digest(files: dict[str, str]) -> str:
    """Return the SHA-256 of the label files' names and contents, in the order of the names."""
    state = hashlib.sha256()
    for name in sorted(files):
        state.update(f"{name}\0{files[name]}\0".encode())
    return state.hexdigest()


def demo_texts(root: Path) -> list[str]:
    """Return every training text of a rendered set: subtitles, emotion words and reasons.

    Validation and test texts are left out; each of their words occurs in these.
    """
    labels = [*_rows(root, CAPTION_LABELS), *_rows(root, EXACT_LABELS)]
    reasons = [*_rows(root, CAPTION_REASONS), *_rows(root, EXACT_REASONS)]
    training = {row["name"] for row in labels}
    subtitles = [row["english"] for row in _rows(root, SUBTITLES) if row["name"] in training and row["english"]]
    opensets = [", ".join(row["openset"].strip("[]").replace(",", " ").split()) for row in labels]
    return [*subtitles, *opensets, *(row["reason"] for row in reasons)]


def _openset_csv(plans: Iterable[ClipPlan]) -> str:
    return _csv(("name", "openset"), ((plan.name, ",".join(plan.caption.words)) for plan in plans))


def _csv(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return pd.DataFrame(rows, columns=header).to_csv(index=False, lineterminator="\n")


def _sidecar_row(plan: ClipPlan) -> dict[str, object]:
    """Return the truth about a clip, even where its caption errs."""
    return {
        "name": plan.name,
        "split": plan.split,
        "emotions": list(plan.truth.words),
        "clusters": [CLUSTER_OF[word] for word in plan.truth.words],
        "evidence": {_MODALITY[channel]: word for channel, word in plan.shown.items()},
        "cues": plan.cues,
        "weak": plan.weak,
        "identity": plan.identity.name,
        "sentence_kind": plan.sentence_kind,
        "cue_phrases": list(plan.cue_phrases),
        "reason": plan.truth.reason,
        "caption_errors": list(plan.caption.errors),
    }


def _rows(root: Path, name: str) -> list[dict[str, str]]:
    path = root / name
    if not path.exists():
        raise DataError(f"{path} is missing; render the synthetic clips again with `make demo-data`")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
