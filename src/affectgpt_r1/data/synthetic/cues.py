"""Cue vectors: how a cluster shows in a face and sounds in a voice, and the words that state a cue.

Cues are in [-1, 1], 0 for a neutral person. The renderer draws them, ``cues.jsonl`` records them, and
``stage=pretrain_encoders`` regresses them.
"""

from __future__ import annotations

from collections.abc import Mapping

from affectgpt_r1.data.synthetic.draws import PortableGenerator
from affectgpt_r1.data.synthetic.emotion_words import Cluster

FACE_CUES: tuple[str, ...] = (
    "mouth_curve",
    "mouth_open",
    "mouth_skew",
    "brow_angle",
    "brow_height",
    "eye_open",
    "gaze",
    "blush",
    "head_tilt",
    "head_motion",
)
VOICE_CUES: tuple[str, ...] = ("pitch", "pitch_slope", "pitch_range", "energy", "rate", "tremor", "breath")

_FACE_VALUES: dict[Cluster, tuple[float, ...]] = {
    #          curve  open   skew   angle  height eye    gaze   blush  tilt   motion
    "joy": (0.90, 0.35, 0.00, 0.00, 0.25, -0.15, 0.00, 0.15, 0.00, 0.45),
    "calm": (0.40, -0.60, 0.00, 0.00, -0.10, -0.75, -0.10, 0.00, 0.10, -0.80),
    "sadness": (-0.85, -0.50, 0.00, 0.85, -0.10, -0.35, -0.30, 0.00, 0.60, -0.50),
    "anger": (-0.60, -0.10, 0.00, -0.90, -0.65, 0.25, 0.10, 0.45, 0.00, 0.40),
    "fear": (-0.30, 0.45, 0.00, 0.70, 0.55, 0.80, 0.00, -0.25, -0.35, 0.80),
    "surprise": (0.10, 0.95, 0.00, 0.00, 0.90, 0.75, 0.25, 0.00, 0.00, -0.10),
    "disgust": (-0.50, 0.00, 0.80, -0.45, -0.40, -0.60, 0.20, -0.75, -0.55, -0.10),
    "shame": (-0.20, -0.45, -0.20, 0.35, 0.10, -0.40, -0.85, 0.95, -0.60, -0.20),
}
_VOICE_VALUES: dict[Cluster, tuple[float, ...]] = {
    #          pitch  slope  range  energy rate   tremor breath
    "joy": (0.45, 0.20, 0.80, 0.40, 0.50, -0.20, -0.20),
    "calm": (0.00, 0.00, -0.80, -0.20, -0.55, -0.50, -0.50),
    "sadness": (-0.60, -0.75, -0.30, -0.50, -0.70, 0.20, 0.20),
    "anger": (0.00, -0.25, 0.40, 0.95, 0.65, -0.10, -0.60),
    "fear": (0.80, 0.10, -0.20, -0.10, 0.60, 0.95, 0.40),
    "surprise": (0.60, 0.95, 0.50, 0.35, -0.25, -0.20, 0.10),
    "disgust": (-0.80, 0.10, 0.30, 0.35, -0.45, -0.20, -0.50),
    "shame": (-0.10, -0.55, -0.30, -0.85, 0.10, 0.35, 0.90),
}

FACE: dict[Cluster, dict[str, float]] = {
    cluster: dict(zip(FACE_CUES, values, strict=True)) for cluster, values in _FACE_VALUES.items()
}
VOICE: dict[Cluster, dict[str, float]] = {
    cluster: dict(zip(VOICE_CUES, values, strict=True)) for cluster, values in _VOICE_VALUES.items()
}

# The words for a cue that is clearly negative, and clearly positive.
STATED: dict[str, tuple[str, str]] = {
    "mouth_curve": ("mouth turned down", "mouth turned up"),
    "mouth_open": ("lips closed", "mouth wide open"),
    "mouth_skew": ("mouth pulled aside", "mouth pulled aside"),
    "brow_angle": ("brows drawn together", "inner brows raised"),
    "brow_height": ("brows lowered", "brows raised"),
    "eye_open": ("eyes narrowed", "eyes wide"),
    "gaze": ("eyes cast down", "eyes turned up"),
    "blush": ("pale cheeks", "red cheeks"),
    "head_tilt": ("head tilted", "head tilted"),
    "head_motion": ("head still", "head moving"),
    "pitch": ("low", "high"),
    "pitch_slope": ("falling", "rising"),
    "pitch_range": ("even", "lively"),
    "energy": ("quiet", "loud"),
    "rate": ("slow", "fast"),
    "tremor": ("steady", "trembling"),
    "breath": ("clear", "breathy"),
}
# What the words of a cue sentence speak of.
TOPICS: dict[Cluster, str] = {
    "joy": "good news",
    "calm": "rest",
    "sadness": "a loss",
    "anger": "a wrong",
    "fear": "danger",
    "surprise": "the unexpected",
    "disgust": "something foul",
    "shame": "a mistake",
}

WEAK_STRENGTH = 0.45
STATED_FROM = 0.2
_INDIVIDUAL_DEVIATION = 0.1


def draw_cues(
    rng: PortableGenerator, names: tuple[str, ...], prototype: Mapping[str, float] | None, *, weak: bool
) -> dict[str, float]:
    """Draw one person's cues around those of the shown cluster, None for a neutral person; values have 4 digits."""
    strength = rng.uniform(0.85, 1.1) * (WEAK_STRENGTH if weak else 1.0)
    drawn = {}
    for name in names:
        value = (prototype[name] if prototype else 0.0) * strength + rng.normal(_INDIVIDUAL_DEVIATION)
        drawn[name] = round(min(1.0, max(-1.0, value)), 4)
    return drawn


def stated_phrases(cues: Mapping[str, float], most: int = 2) -> tuple[str, ...]:
    """Return the words for the clearest cues, strongest first; none for cues too faint to state."""
    clear = sorted((name for name in cues if abs(cues[name]) >= STATED_FROM), key=lambda name: -abs(cues[name]))
    return tuple(STATED[name][int(cues[name] > 0)] for name in clear[:most])
