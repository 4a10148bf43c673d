"""Write the media files: mp4 (H.264 and AAC) through PyAV, wav, face crops."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from affectgpt_r1.data.synthetic.settings import SAMPLE_RATE


def write_wav(path: Path, waveform: NDArray[np.float32]) -> None:
    """Write a waveform ``(S,)`` in [-1, 1] as 16 kHz mono PCM16."""
    soundfile.write(path, _pcm16(waveform), SAMPLE_RATE, subtype="PCM_16")


def write_mp4(path: Path, frames: NDArray[np.uint8], waveform: NDArray[np.float32], fps: int) -> None:
    """Write frames ``(T, H, W, 3)`` RGB and a waveform ``(S,)`` as one mp4."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "20", "threads": "1"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 48_000
        audio.codec_context.options = {"aac_coder": "fast"}
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        sound = av.AudioFrame.from_ndarray(_pcm16(waveform)[None], format="s16", layout="mono")
        sound.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def write_face_crops(path: Path, crops: NDArray[np.uint8]) -> None:
    """Write RGB crops ``(T, 112, 112, 3)`` as the published files probably hold them: BGR."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ascontiguousarray(crops[..., ::-1]))


def _pcm16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.round(waveform * 32_767.0).astype(np.int16)
