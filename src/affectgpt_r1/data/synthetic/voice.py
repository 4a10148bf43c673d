"""Render a voice-like sound: a harmonic source with formants, cut into syllables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.data.synthetic.identity import Identity
from affectgpt_r1.data.synthetic.settings import SAMPLE_RATE

Floats: TypeAlias = NDArray[np.floating[Any]]

_TABLE = 2048
_VOWELS = np.array([(750, 1250, 2600), (320, 2200, 2900), (400, 900, 2500), (500, 1800, 2600)], dtype=np.float64)
_BANDWIDTHS = np.array([90.0, 110.0, 160.0])
_GAINS = np.array([1.0, 0.6, 0.3])
_HIGHEST_HARMONIC = 7_000.0
_TREMOR_HZ = 7.0
_ROOM_NOISE = 0.0015


class Voice(NamedTuple):
    """A rendered voice."""

    waveform: NDArray[np.float32]  # (S,) in [-1, 1] at 16 kHz
    syllables: NDArray[np.float32]  # (S,) in [0, 1]: how far the current syllable opens the mouth


def render_voice(
    identity: Identity, cues: Mapping[str, float], seconds: float, generator: np.random.Generator
) -> Voice:
    """Render the voice of one clip; ``generator`` draws vowels, syllable weights and noise."""
    time = np.arange(round(seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    syllables, syllable_index = _syllables(time, cues["rate"], generator)
    pitch = _pitch(time, seconds, identity, cues, generator)
    tables = _vowel_tables(identity, cues["energy"], float(pitch.mean()), float(pitch.max()))
    vowels = generator.integers(len(_VOWELS), size=int(syllable_index.max()) + 1)
    phase = np.cumsum(pitch, dtype=np.float64) / SAMPLE_RATE
    place = ((phase % 1.0) * _TABLE).astype(np.int64)
    tone = tables[vowels[syllable_index], place]
    breath = 0.03 + 0.20 * (1.0 + cues["breath"]) ** 2
    hiss = np.diff(generator.standard_normal(len(time) + 1, dtype=np.float32))
    shake = 1.0 - 0.2 * (1.0 + cues["tremor"]) ** 2 * (0.5 + 0.5 * np.sin(2 * np.pi * _TREMOR_HZ * time))
    loudness = 0.07 * 2.0 ** (1.3 * cues["energy"])
    sound = loudness * syllables * shake * (tone * (1.0 - 0.35 * max(0.0, cues["breath"])) + breath * hiss)
    sound += _ROOM_NOISE * generator.standard_normal(len(time), dtype=np.float32)
    return Voice(np.clip(sound, -0.99, 0.99).astype(np.float32), syllables)


def _syllables(
    time: Floats, rate: float, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the syllable envelope ``(S,)`` and the index of the syllable at each sample."""
    per_second = 3.6 * 2.0 ** (0.8 * rate)
    position = time * per_second + generator.uniform()
    index = position.astype(np.int64)
    weights = generator.uniform(0.7, 1.0, size=int(index[-1]) + 1)
    bump = np.sin(np.pi * np.clip((position - index) / 0.8, 0.0, 1.0)) ** 0.7
    return (bump * weights[index]).astype(np.float32), index


def _pitch(
    time: Floats, seconds: float, identity: Identity, cues: Mapping[str, float], generator: np.random.Generator
) -> Floats:
    """Return the pitch in Hz ``(S,)``, clipped to [70, 450]."""
    melody = 0.11 * (1.0 + cues["pitch_range"]) * np.sin(2 * np.pi * (1.3 * time + generator.uniform()))
    tremble = 0.012 * (1.0 + cues["tremor"]) ** 2 * np.sin(2 * np.pi * _TREMOR_HZ * time)
    glide = 0.9 * cues["pitch_slope"] * (time / seconds - 0.5)
    octaves = 0.65 * cues["pitch"] + melody + tremble + glide
    pitch: Floats = np.clip(identity.pitch * np.exp2(octaves), 70.0, 450.0)
    return pitch


def _vowel_tables(identity: Identity, energy: float, pitch: float, highest_pitch: float) -> Floats:
    """Return one period of each vowel ``(vowels, table)`` at unit power; a loud voice has stronger high harmonics."""
    harmonics = np.arange(1, max(2, int(_HIGHEST_HARMONIC / highest_pitch)) + 1)
    distance = harmonics[None, :, None] * pitch - identity.tract * _VOWELS[:, None, :]
    formants = (_GAINS / (1.0 + (distance / (_BANDWIDTHS * 1.5)) ** 2)).sum(-1) + 0.02
    tilt = harmonics ** -(1.1 - 0.7 * energy - identity.brightness)
    amplitudes = formants * tilt
    amplitudes /= np.sqrt(0.5 * (amplitudes**2).sum(-1, keepdims=True))
    angle = 2 * np.pi * np.arange(_TABLE) / _TABLE
    phases = 0.5 * harmonics**2 / len(harmonics)  # spread, so that the period has no sharp peak
    waves = np.sin(harmonics[:, None] * angle + phases[:, None])
    tables: Floats = (amplitudes @ waves).astype(np.float32)
    return tables
