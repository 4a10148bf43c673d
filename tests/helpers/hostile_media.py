"""Files that look like a clip and are made to open others, or to take all memory."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path


def patched(path: Path, mark: bytes, offset: int, value: bytes) -> Path:
    """Overwrite bytes, ``offset`` after the first ``mark``."""
    content = bytearray(path.read_bytes())
    at = content.index(mark) + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


def with_frame_count(path: Path, count: int) -> Path:
    """Let an mp4's table of times declare ``count`` frames."""
    return patched(path, b"stts", 12, struct.pack(">I", count))


def playlists(target: str) -> dict[str, bytes]:
    """Return lists of files that name ``target``, by kind."""
    dash = (
        f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        f'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" type="static" mediaPresentationDuration="PT2S">'
        f'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL>'
        f"</Representation></AdaptationSet></Period></MPD>"
    )
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"
    port = target.partition("127.0.0.1:")[2].partition("/")[0] or "9"
    texts = {
        "hls": hls,
        "concat": f"ffconcat version 1.0\nfile '{target}'\n",
        "dash": dash,
        "sdp": sdp.format(port=port),
        "asx": f"[Reference]\nRef1={target}\n",
        "smil": f'<smil><body><video src="{target}"/></body></smil>',
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}" width="9" height="9"/></svg>',
        "srt": f"1\n00:00:01,000 --> 00:00:02,000\n{target}\n",
        "vobsub": "# VobSub index file, v7 (do not modify this line!)\n",
    }
    return {kind: text.encode() for kind, text in texts.items()}


def gif(width: int, height: int) -> bytes:
    """Return one pixel on a screen of any size."""
    palette, pixel = b"\0\0\0\xff\xff\xff", b"\x02\x02D\x01\0;"
    return (
        b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + palette + b"!\xf9\x04\0\x0a\0\0\0"
        b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0" + pixel
    )


def png(width: int, height: int) -> bytes:
    """Return a picture of any declared size and no content."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def wav(rate: int, channels: int = 1, content: bytes = bytes(64_000), size: int | None = None) -> bytes:
    """Return 16-bit sound with any declared rate, channels and size."""
    declared = len(content) if size is None else size
    return (
        b"RIFF" + struct.pack("<I", min(declared + 36, 2**32 - 1)) + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2 & 2**32 - 1, channels * 2 & 2**16 - 1, 16)
        + b"data" + struct.pack("<I", declared) + content
    )  # fmt: skip
