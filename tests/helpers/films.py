"""Films with subtitle tracks."""

from __future__ import annotations

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
