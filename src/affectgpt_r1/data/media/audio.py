"""Read the sound of a clip. Only this module imports torchaudio, when it first needs it."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from affectgpt_r1.data.media.containers import audio_stream, opened
from affectgpt_r1.errors import AffectGPTError, MediaError

WindowRule: TypeAlias = Literal["even", "published"]

SAMPLE_RATE = 16_000  # that HuBERT and the published windows expect
SAMPLE_RATES = range(1_000, 768_001)  # of a file; resampling a lower rate would make gigabytes of a small file
MOST_PHASES = 1000  # of the resampling filter; 16 kHz from 44.1 kHz is 160 / 441
MOST_CHANNELS = 8  # a packet that claims more is damaged, and PyAV reads past its memory there
MAX_SAMPLES = 1 << 27  # held at once, 512 MiB: 23 minutes of stereo at 48 kHz; long files are read in parts


def read_waveform(path: Path, track: int | None = None) -> tuple[NDArray[np.float32], int]:
    """Read a sound file, or the sound of an mp4, as one channel.

    Two channels are averaged, as by the published loader, which has no rule for more; see :func:`mix_down`.

    Args:
        path: The file.
        track: See :func:`~affectgpt_r1.data.media.containers.audio_stream`.

    Returns:
        Samples ``(N,)`` in [-1, 1], and the sample rate.

    Raises:
        MediaError: The file cannot be read, has no sound, another rate than ``SAMPLE_RATES``, or holds samples that are
            not finite.
    """
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    channels, rate = _read_wav(path) if path.suffix.lower() == ".wav" else _read_track(path, track)
    check_sample_rate(path, rate)
    if not channels.size:
        raise MediaError(f"{path}: the sound is empty")
    if len(channels) > 2:  # FFmpeg knows which of them are in front
        channels, rate = _read_track(path)
    waveform = channels.mean(axis=0, dtype=np.float32)
    if not np.isfinite(waveform).all():
        raise MediaError(f"{path}: the sound holds samples that are not finite")
    return waveform, rate


def check_sample_rate(path: Path, rate: int) -> None:
    """Raise :class:`MediaError` for a rate that is not one of ``SAMPLE_RATES``."""
    if rate not in SAMPLE_RATES:
        lowest, highest = SAMPLE_RATES[0], SAMPLE_RATES[-1]
        raise MediaError(f"{path}: its sound has {rate} samples per second; {lowest} to {highest} are read")


def mix_down(frames: Iterable[av.AudioFrame]) -> NDArray[np.float32]:
    """Return the samples ``(N,)`` of decoded frames; their number of channels may change, as in broadcasts.

    Two channels are averaged. Of more, FFmpeg's matrix keeps the centre, which is what people say in a film, at its
    level, takes the others from 3 dB below it, and leaves out the subwoofer.

    Raises:
        ValueError: A frame claims more than ``MOST_CHANNELS``, or there are more than ``MAX_SAMPLES``.
    """
    pieces: list[NDArray[np.float32]] = []
    num_samples = 0
    layout: str | None = None
    for frame in frames:
        if frame.layout.nb_channels > MOST_CHANNELS:
            raise ValueError(f"a packet claims {frame.layout.nb_channels} channels")
        if frame.layout.name != layout:
            layout = frame.layout.name
            is_surround = frame.layout.nb_channels > 2 and "ambisonic" not in layout
            planar = av.AudioResampler(format="fltp", layout="mono" if is_surround else None)
        for piece in planar.resample(frame):
            pieces.append(piece.to_ndarray().mean(axis=0, dtype=np.float32))
            num_samples += piece.samples
        if num_samples > MAX_SAMPLES:
            raise ValueError(f"it holds more than {MAX_SAMPLES} samples, which its header does not say")
    return np.concatenate(pieces) if pieces else np.empty(0, np.float32)


def resample(waveform: Tensor, rate: int) -> Tensor:
    """Resample ``(..., N)`` to 16 kHz by ``torchaudio.functional.resample``."""
    # The filter grows with the square of the reduced rates: 3 GB for the 11,127 Hz of old recordings. Such a rate is
    # replaced by one that is less than a thousandth off.
    ratio = Fraction(SAMPLE_RATE, rate).limit_denominator(MOST_PHASES)
    if ratio == 1:
        return waveform
    resampled: Tensor = _torchaudio().functional.resample(waveform, ratio.denominator, ratio.numerator)
    return resampled


def audio_windows(
    waveform: Tensor, rate: int = SAMPLE_RATE, count: int = 8, seconds: float = 2.0, rule: WindowRule = "even"
) -> Tensor:
    """Cut ``count`` windows.

    Windows overlap where the clip is shorter than ``count`` of them. A clip shorter than one window is padded with
    silence at its end, as published.

    Args:
        waveform: ``(N,)``.
        rate: Samples per second.
        count: Windows ``W``.
        seconds: Length of a window.
        rule: Where windows start, see :func:`window_starts`; ``published`` also centres each of them to mean zero.

    Returns:
        ``(W, S)``.
    """
    length = round(seconds * rate)
    if waveform.shape[0] < length:
        waveform = torch.nn.functional.pad(waveform, (0, length - waveform.shape[0]))
    starts = window_starts(waveform.shape[0], rate, count, seconds, rule)
    windows = torch.stack([waveform[start : start + length] for start in starts])
    return centred(windows) if rule == "published" else windows


def window_starts(length: int, rate: int, count: int, seconds: float, rule: WindowRule) -> list[int]:
    """Return the first samples of the windows in a sound of ``length`` samples, which is at least one window.

    ``even`` spaces them over ``[0, D - seconds]``, ``D`` the duration, so that the last window ends with the clip.
    ``published`` is AffectGPT's ``int(i * Fraction(D - seconds) / count * rate)``, whose last window ends before the
    clip does.
    """
    if rule == "published":
        free = Fraction(max(length / rate - seconds, 0))  # of the float, as published: the fraction is exact
        return [int(index * free / count * rate) for index in range(count)]
    last_start = length - round(seconds * rate)
    return [index * last_start // max(count - 1, 1) for index in range(count)]


def centred(windows: Tensor) -> Tensor:
    """Subtract from each window of ``(W, S)`` its mean, as an in-place step of the published loader does."""
    return windows - windows.mean(1, keepdim=True)


def read_audio_windows(
    path: Path, count: int = 8, seconds: float = 2.0, rule: WindowRule = "even", track: int | None = None
) -> Tensor:
    """Read a clip's sound as ``(W, S)`` float32 windows at 16 kHz; see :func:`read_waveform` for errors."""
    waveform, rate = read_waveform(path, track)
    return audio_windows(resample(torch.from_numpy(waveform), rate), SAMPLE_RATE, count, seconds, rule)


def log_mel(waveforms: Tensor, num_mels: int) -> Tensor:
    """Return log mel energies ``(..., T, num_mels)`` of ``(..., S)`` at 16 kHz, the target of encoder pretraining.

    ``log(power + 1e-6)`` of 25 ms Hann windows, 10 ms apart: ``T = S // 160 + 1``.
    """
    power: Tensor = _mel_spectrogram(num_mels, waveforms.device)(waveforms)
    return (power + 1e-6).log().transpose(-1, -2)


@cache
def _mel_spectrogram(num_mels: int, device: torch.device) -> Any:
    transform = _torchaudio().transforms.MelSpectrogram(
        sample_rate=SAMPLE_RATE, n_fft=400, hop_length=160, n_mels=num_mels
    )
    return transform.to(device)


def _torchaudio() -> Any:
    # Its CPU wheel links CUDA libraries, so a CPU-only torch makes the import fail with OSError.
    try:
        import torchaudio
    except (ImportError, OSError) as error:
        raise AffectGPTError(
            f"torchaudio cannot be loaded ({error}); install the torch and torchaudio that constraints.txt pins"
        ) from error
    return torchaudio


def _read_wav(path: Path) -> tuple[NDArray[np.float32], int]:
    try:
        with soundfile.SoundFile(path) as file:
            if (number := file.frames * file.channels) > MAX_SAMPLES:
                raise ValueError(f"it holds {number} samples; at most {MAX_SAMPLES} are read at once")
            return file.read(dtype="float32", always_2d=True).T, file.samplerate
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read as sound: {error}") from error


def _read_track(path: Path, track: int | None = None) -> tuple[NDArray[np.float32], int]:
    with opened(path) as container:
        stream = audio_stream(container, track)
        if stream is None:
            raise MediaError(f"{path}: has no audio track")
        return mix_down(container.decode(stream))[None], stream.rate
