"""Read a file that nobody prepared as a policy's training clips were read, and keep what the answer rests on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from affectgpt_r1.data.clip_reader import read_full_frames, read_pictures, read_sound, resize_found_faces
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.data.layouts.spoken_text import MOST_CHARACTERS, limited
from affectgpt_r1.data.media.any_media import picture_seconds, sound_window_starts
from affectgpt_r1.data.media.audio import SAMPLE_RATE
from affectgpt_r1.data.media.containers import Streams, inspect
from affectgpt_r1.data.media.faces import Person, centre_square, crop_face, mouth_motion, track_people
from affectgpt_r1.data.media.subtitles import Cue, spoken
from affectgpt_r1.data.media.video import Frames
from affectgpt_r1.errors import MediaError
from affectgpt_r1.types import Clip, Modality

Faces: TypeAlias = Literal["detect", "centre"]

WITHOUT_TEXT = "give what is said by --subtitle, as an .srt next to the file, or as a text track inside it"
OTHER_PERSON = "--person chooses another, or each"
GIVEN, TRACK = "--subtitle", "a track inside the file"  # sources of what is said, else a file's name
PICTURES_OF_SPEECH = 3  # times as many pictures tell who speaks
DARK = 12  # of 255, the mean of the pictures
SILENT = 1e-3  # of full scale, the loudest sample
VOICED = 0.02  # of the windows' time: less is no voice


@dataclass(frozen=True)
class ReadOptions:
    """How a file is read beyond what the policy's training says.

    Attributes:
        faces: ``detect`` follows the faces over the frames, ``centre`` takes the middle of the frame.
        person: Whose face: ``largest``, ``speaking``, ``each``, or a number by prominence from 1.
        audio_track: Number, from 1, or language; None is the one that a player takes.
        every: Seconds of the parts that are answered one by one; None answers the file as a whole.
    """

    faces: Faces = "detect"
    person: str = "largest"
    audio_track: str | None = None
    every: float | None = None


class Said(NamedTuple):
    """What is said, and where that was found."""

    cues: tuple[Cue, ...]
    source: str

    @classmethod
    def of_text(cls, text: str) -> Said:
        """Return what is said at no known time."""
        return cls((Cue(0.0, math.inf, text),) if text else (), GIVEN)


@dataclass(frozen=True)
class Reading:
    """A clip of a file, of one person where they were told apart.

    Attributes:
        clip: What the policy reads.
        notes: What a reader of the answer should know.
        facts: ``faces``, ``person``, ``start`` and ``end``, as far as they are known.
        evidence: Times and boxes of the crops, the windows, the text.
        has_person: Whether there is a face or a voice.
    """

    clip: Clip
    notes: list[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    has_person: bool = True


class _Seen(NamedTuple):
    frames: Tensor
    context_frames: Tensor | None
    notes: list[str]
    facts: dict[str, Any]
    shown: list[dict[str, Any]]  # time, and box as fractions of the picture
    has_face: bool


def read_clips(
    path: Path, subtitle: str | Said | None, media: MediaSettings, options: ReadOptions
) -> Iterator[Reading]:
    """Read a file as the policy's training clips were read: as a whole, or part by part, or person by person.

    A modality that the file lacks is left out of the prompt, never made of zeros. Where no frame shows a face, the
    middle of each frame replaces it.

    Args:
        path: Any file that FFmpeg reads.
        subtitle: What is said in it, ``""`` leaves the text modality out; None reads the file's subtitle track.
        media: The policy's.
        options: See :class:`ReadOptions`.

    Raises:
        MediaError: The file cannot be read, or holds nothing that the policy was trained on.
    """
    with_text = subtitle is None and "text" in media.modalities
    streams = inspect(path, with_text=with_text, audio_track=options.audio_track)
    said = Said.of_text(subtitle) if isinstance(subtitle, str) else subtitle
    said = Said(streams.cues, TRACK) if said is None else said
    if options.every is None:
        yield from _readings(path, said, media, options, streams)
        return
    begin, answered = streams.start, False
    for number in range(math.ceil((streams.end - begin) / options.every) or 1):
        start = begin + number * options.every
        end = min(start + options.every, streams.end + 1e-3)
        part = streams.between(start, end)
        if not any(_recorded(part, "")[kind] for kind in media.modalities):
            continue  # a pause of both
        heard = said._replace(cues=tuple(cue for cue in said.cues if cue.start < end and cue.end > start))
        span = {"start": round(start, 3), "end": round(end, 3)}
        without_text = "nothing is said in this part" if said.cues and not heard.cues else WITHOUT_TEXT
        for reading in _readings(path, heard, media, options, part, without_text):
            answered = True
            yield dataclasses.replace(reading, facts={**span, **reading.facts})
    if not answered:
        yield from _readings(path, said, media, options, streams)  # says what it lacks


def read_clip(path: Path, subtitle: str | None, media: MediaSettings, faces: Faces) -> tuple[Clip, list[str]]:
    """Return the clip and the notes of the first of :func:`read_clips`."""
    reading = next(read_clips(path, subtitle, media, ReadOptions(faces)))
    return reading.clip, reading.notes


def _recorded(streams: Streams, subtitle: str) -> dict[Modality, bool]:
    return {"video": streams.has_video, "audio": streams.has_audio, "text": bool(subtitle)}


def _readings(
    path: Path,
    said: Said,
    media: MediaSettings,
    options: ReadOptions,
    streams: Streams,
    without_text: str = WITHOUT_TEXT,
) -> Iterator[Reading]:
    subtitle, about_cut = _cut(spoken(said.cues))
    recorded = _recorded(streams, subtitle)
    # An empty subtitle sentence alone is nothing to answer from.
    has_any = any(recorded[kind] for kind in media.modalities)
    present = {**recorded, "text": bool(subtitle) or media.empty_subtitle == "keep"}
    kept = tuple(kind for kind in media.modalities if present[kind])
    if not has_any:
        raise MediaError(f"{path}: has none of the modalities that the policy reads ({', '.join(media.modalities)})")
    notes = [*streams.notes, *about_cut]
    evidence: dict[str, Any] = {}
    waveform, has_voice = None, False
    if "audio" in kept:
        waveform = read_sound(path, media, streams)
        about_sound, has_voice = _about_sound(waveform)
        notes += about_sound
        starts = sound_window_starts(streams, media.num_windows, media.window_seconds, media.windows)
        evidence["windows"] = [[round(start, 3), round(start + media.window_seconds, 3)] for start in starts]
    if "text" in kept and subtitle:
        evidence["text"] = {"said": subtitle, "from": said.source}
        notes += [f"what is said is from {said.source}"] if said.source not in (GIVEN, TRACK) else []
    lacking = [kind for kind in media.modalities if kind not in kept]
    about_lack = []
    if own := [kind for kind in lacking if kind != "text"]:
        about_lack.append(f"answered without {' and '.join(own)}, which the file does not have")
    if "text" in lacking:
        about_lack.append(f"answered without text: {without_text}")
    for seen in _seen(path, media, streams, options) if "video" in kept else (None,):
        clip = Clip(path.name, subtitle, (), "", kept, waveform=waveform)
        if seen is None:
            yield Reading(clip, notes + about_lack, {}, evidence, has_voice)
            continue
        yield Reading(
            dataclasses.replace(clip, frames=seen.frames, context_frames=seen.context_frames),
            notes + seen.notes + about_lack,
            seen.facts,
            {"frames": seen.shown, **evidence},
            has_voice or seen.has_face,
        )


def _cut(said: str) -> tuple[str, list[str]]:
    said = said.strip()
    if len(read := limited(said)) == MOST_CHARACTERS < len(said):
        return read, [f"of {len(said)} characters that are said, the first {MOST_CHARACTERS} are read"]
    return read, []


def _seen(path: Path, media: MediaSettings, streams: Streams, options: ReadOptions) -> Iterator[_Seen]:
    """Yield the frames that ``data.visual`` asks for, for ``both`` the full ones as well, of each person asked for."""
    times = [round(time, 3) for time in picture_seconds(streams, media.num_frames, media.frame_indices)]
    full_frames = read_full_frames(path, media, streams) if media.visual != "face" else None
    if full_frames is not None and media.visual != "both":
        taken = times[len(times) // 2 :][:1] if media.visual == "image" else times
        # Whether people are in them is not asked here.
        yield _Seen(full_frames, None, _about_light(full_frames), {}, [{"time": time} for time in taken], True)
        return
    factor = PICTURES_OF_SPEECH if options.person == "speaking" and options.faces == "detect" else 1
    searched = read_pictures(path, dataclasses.replace(media, num_frames=factor * media.num_frames), streams)
    pictures, about_light = searched[::factor], _about_light(searched)
    found = track_people(searched) if options.faces == "detect" else []
    faces = sum(len(person.boxes) > 1 for person in found) or min(1, len(found))
    chosen = _chosen(path, found, faces, searched, options.person)
    if not chosen:
        about_faces = ["no face found: the middle of each frame replaces it"] if options.faces == "detect" else []
        crops = [centre_square(picture) for picture in pictures]
        facts = {"faces": 0} if options.faces == "detect" else {}
        notes = about_light + about_faces
        frames = resize_found_faces(crops, media)
        yield _Seen(frames, full_frames, notes, facts, [{"time": time} for time in times], has_face=False)
    for number, person in chosen:
        boxes = {index // factor: box for index, box in person.boxes.items() if index % factor == 0}
        if not boxes:  # seen between the frames alone
            index, box = next(iter(person.boxes.items()))
            pictures, boxes = [*pictures], {index // factor: box}
            pictures[index // factor] = searched[index]
        nearest = [_nearest(boxes, index) for index in range(len(pictures))]
        notes = [*about_light, *_about_person(len(boxes), len(pictures), number, faces, options.person)]
        crops = [crop for index in nearest if (crop := crop_face(pictures[index], boxes[index])) is not None]
        shown: list[dict[str, Any]] = [
            {"time": times[index], "box": _fractions(boxes[index], pictures[index])} for index in nearest
        ]
        facts = {"faces": faces, "person": number}
        yield _Seen(resize_found_faces(crops, media), full_frames, notes, facts, shown, True)


def _nearest(seen: Iterable[int], index: int) -> int:
    return min(seen, key=lambda other: abs(other - index))


def _chosen(
    path: Path, found: Sequence[Person], faces: int, pictures: Sequence[Frames], which: str
) -> list[tuple[int, Person]]:
    """Return the people that were asked for, by their numbers from 1."""
    numbered = list(enumerate(found, start=1))
    if not found or which == "largest":
        return numbered[:1]
    if which == "each":  # a face of one frame is a passer-by's, or a mistake, where others are in several
        return [(number, person) for number, person in numbered if len(person.boxes) > 1] or numbered[:1]
    if which == "speaking":
        return [max(numbered, key=lambda entry: mouth_motion(pictures, entry[1]))]
    if int(which) > len(found):
        raise MediaError(f"{path}: --person {which}: {len(found)} faces are found")
    return [numbered[int(which) - 1]]


def _about_person(seen: int, number: int, person: int, faces: int, which: str) -> list[str]:
    notes = []
    if seen < number:
        passing = " (of a passer-by?)" if seen == 1 < number - 1 else ""
        notes.append(f"a face in {seen} of {number} frames{passing}, repeated for the others")
    if faces > 1 and which == "largest":
        notes.append(f"{faces} faces: answered for the largest; {OTHER_PERSON}")
    if faces > 1 and which == "speaking":
        notes.append(f"{faces} faces: answered for number {person}, whose mouth moves most")
    return notes


def _fractions(box: Sequence[float], picture: Frames) -> list[float]:
    height, width = picture.shape[:2]
    return [round(edge / size, 3) for edge, size in zip(box, (width, height, width, height), strict=True)]


def _about_light(pictures: Sequence[Frames] | Tensor) -> list[str]:
    light = sum(
        float(picture.mean(dtype=torch.float32) if isinstance(picture, Tensor) else picture.mean())
        for picture in pictures
    )
    return ["its pictures are dark"] if light / len(pictures) < DARK else []


def _about_sound(windows: Tensor) -> tuple[list[str], bool]:
    """Return notes on silence, and whether there is a voice in the windows ``(W, S)`` at 16 kHz."""
    if float(windows.abs().max()) < SILENT:
        return ["its sound is silent"], False
    frames = windows.unfold(-1, SAMPLE_RATE // 25, SAMPLE_RATE // 50).flatten(0, 1)  # of 40 ms
    frames = frames - frames.mean(-1, keepdim=True)
    spectrum = torch.fft.rfft(frames, 2 * frames.shape[-1]).abs().square()
    likeness = torch.fft.irfft(spectrum)[:, : frames.shape[-1]]
    lags = torch.arange(SAMPLE_RATE // 400, SAMPLE_RATE // 70)  # of pitches from 70 to 400 Hz
    periodic = likeness[:, lags] / (1 - lags / frames.shape[-1]) / likeness[:, :1].clamp_min(1e-9)
    is_loud = frames.square().mean(-1).sqrt() > SILENT
    fraction = float(((periodic.amax(-1) > 0.6) & is_loud).float().mean())
    return ([], True) if fraction >= VOICED else (["no voice found in its sound"], False)
