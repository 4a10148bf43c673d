"""Films with subtitle tracks, and turned ones."""

from __future__ import annotations

import struct
from pathlib import Path

import av


def add_subtitles(film: Path, srt: Path, path: Path) -> Path:
    """Write the film's video and the lines of an ``.srt`` into one Matroska file."""
    with av.open(str(film)) as pictures, av.open(str(srt)) as lines, av.open(str(path), "w") as both:
        origins = [pictures.streams.video[0], lines.streams.subtitles[0]]
        for origin, copied in [(origin, both.add_stream_from_template(origin)) for origin in origins]:
            for packet in origin.container.demux(origin):
                if packet.dts is not None:
                    packet.stream = copied
                    both.mux(packet)
    return path


def with_display_matrix(path: Path, across: tuple[int, int], down: tuple[int, int]) -> Path:
    """Write where the file's x and y axes point on the screen, as phones do, into an mp4's track header."""
    content = path.read_bytes()

    def matrix(across, down) -> bytes:
        return struct.pack(">9i", *(65536 * n for n in across), 0, *(65536 * n for n in down), 0, 0, 0, 1 << 30)

    track = content.index(b"tkhd")
    upright = matrix((1, 0), (0, 1))
    assert upright in content[track:]
    path.write_bytes(content[:track] + content[track:].replace(upright, matrix(across, down), 1))
    return path
