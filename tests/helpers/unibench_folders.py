"""Nine stand-ins for the MER-UniBench folders, answers to their clips, and metrics of these worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS

CLASSES = {
    "mer2023": {"p": "happy", "q": "neutral"},
    "mer2024": {"p": "happy", "q": "sad"},
    "meld": {"m1": 0, "m2": 1, "m3": 2, "m4": 3},  # anger, joy, sadness, neutral
    "iemocap": {"Ses04_x": 0, "Ses05_a": 3, "Ses05_b": 1},  # happy, anger, sad; session 5 is tested
}
VALUES = {
    "cmumosi": {"a": 0.5, "b": -2.0, "c": 0.0, "d": 1.0},
    "cmumosei": {"a": 3.0, "b": -0.3},
    "sims": {"a": -1.0, "b": 1.0},
    "simsv2": {"a": 0.2, "b": -0.2},
}
OPENSET = 'name,openset\nx,[happy]\ny,"worried,sad"\nz,neutral\n'
PREDICTIONS = {
    "mer2023": {"p": ("happy", "sad"), "q": ("neutral",)},
    "mer2024": {"p": ("angry",), "q": ("sad",)},
    "meld": {"m1": ("angry",), "m2": ("Joyful", "sad", "angry"), "m3": (), "m4": ("happy",)},
    "iemocap": {"Ses05_a": ("angry",), "Ses05_b": ("happy",)},
    "cmumosi": {"a": ("happy",), "b": ("neutral",), "c": ("angry",), "d": ("sad",)},
    "cmumosei": {"a": ("happy",), "b": ("sad", "angry", "happy")},
    "sims": {"a": ("happy",), "b": ("angry",)},
    "simsv2": {"a": ("neutral",), "b": ("neutral",)},
    "ovmerdplus": {"x": ("happy", "sad"), "y": ("sad",), "z": ("happy",)},
}
PUBLISHED = {
    "mer2023": 1,  # q is dropped, and the second word of p is free
    "mer2024": 1 / 2,
    "meld": 2 / 3,  # m4 is dropped
    "iemocap": 1 / 2,
    # Targets + - +, predictions + - -: F1 of + is 2/3 (TP 1, FN 1), of - is 2/3 (TP 1, FP 1).
    "cmumosi": 2 / 3,
    "cmumosei": 1,
    "sims": 0,
    "simsv2": 1 / 2 * 0 + 1 / 2 * 2 / 3,  # both neutral, so both negative: one false positive
    "ovmerdplus": 3 / 4,  # P = (1/2 + 1) / 2, R = (1 + 1/2) / 2; z is dropped
}
CORRECTED = {
    "mer2023": (1 / 2 + 1) / 2,
    "mer2024": 1 / 2,
    "meld": (1 + 1 / 3 + 0 + 0) / 4,
    "iemocap": 1 / 2,
    "cmumosi": 2 / 3 * 2 / 3 + 1 / 3 * 0,  # b is an abstention
    "cmumosei": 1,
    "sims": 0,
    "simsv2": 0,
    "ovmerdplus": 1 / 2,  # P = (1/2 + 1 + 0) / 3, R = (1 + 1/2 + 0) / 3
}


def write_unibench(root: Path) -> Path:
    """Write labels and transcripts of the nine sets below ``root``, in the published layouts."""
    for name, layout in LAYOUTS.items():
        folder = root / layout.folder
        folder.mkdir()
        if name == "ovmerdplus":
            (folder / layout.label_file).write_text(OPENSET)
        else:
            np.savez_compressed(folder / layout.label_file, **_corpora(name))
        file, column = layout.transcript
        (folder / file).write_text(f"name,{column}\n" + "".join(f"{clip},Hm\n" for clip in PREDICTIONS[name]))
    return root


def _corpora(name: str) -> dict[str, dict[str, dict[str, object]]]:
    if name == "iemocap":
        return {"whole_corpus": {clip: {"emo": emo, "val": -10} for clip, emo in CLASSES[name].items()}}
    if name in CLASSES:
        test = {clip: {"emo": emo, "val": np.float64(0)} for clip, emo in CLASSES[name].items()}
    else:
        test = {clip: {"emo": 0, "val": val} for clip, val in VALUES[name].items()}
    return {"train_corpus": {"t": {"emo": "sad", "val": -1.0}}, LAYOUTS[name].corpus: test}
