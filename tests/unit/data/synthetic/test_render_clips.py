from __future__ import annotations

import json
import shutil
import wave
from dataclasses import asdict, replace

import av
import numpy as np
import pytest

from affectgpt_r1.data.synthetic.clip_plan import plan_clips
from affectgpt_r1.data.synthetic.cues import FACE, FACE_CUES, VOICE, VOICE_CUES
from affectgpt_r1.data.synthetic.face import draw_face, face_crops
from affectgpt_r1.data.synthetic.identity import make_identity
from affectgpt_r1.data.synthetic.labels import demo_texts, label_files
from affectgpt_r1.data.synthetic.render_clips import render_demo
from affectgpt_r1.data.synthetic.settings import SAMPLE_RATE, RenderConfig
from affectgpt_r1.data.synthetic.voice import render_voice
from affectgpt_r1.errors import DataError, WriteError

TINY = RenderConfig(seed=1, num_caption=3, num_exact=2, num_validation=1, num_test=2)
PERSON = make_identity(1, "train", 0)
NEUTRAL_FACE = dict.fromkeys(FACE_CUES, 0.0)
NEUTRAL_VOICE = dict.fromkeys(VOICE_CUES, 0.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "synthetic"
    render_demo(folder, TINY, workers=1)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_wav(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)


def test_label_files_on_disk_are_the_planned_ones(root):
    for name, content in label_files(plan_clips(TINY)).items():
        assert (root / name).read_bytes() == content.encode()
    stamp = json.loads((root / "demo.json").read_text())
    assert stamp["synthetic"] is True
    assert stamp["settings"] == asdict(TINY)


def test_sidecar_has_a_row_for_each_clip_with_all_cues(root):
    rows = [json.loads(line) for line in (root / "cues.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [plan.name for plan in plan_clips(TINY)]
    for row in rows:
        assert set(row["cues"]) == {*FACE_CUES, *VOICE_CUES}
        assert set(row["evidence"]) <= {"video", "audio", "text"}
        assert set(row["evidence"].values()) == set(row["emotions"])


def test_mp4_has_h264_and_aac_of_the_planned_length(root):
    for plan in plan_clips(TINY):
        with av.open(str(root / "video" / f"{plan.name}.mp4")) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert video.codec_context.name == "h264"
            assert audio.codec_context.name == "aac"
            assert (video.height, video.width) == (96, 96)
            assert float(video.average_rate) == 8
            assert audio.rate == 16_000
            assert sum(1 for _ in container.decode(video)) == int(plan.seconds * 8)
            assert float(audio.duration * audio.time_base) == pytest.approx(plan.seconds, abs=0.15)


def test_wav_and_mp4_hold_the_same_sound(root):
    plan = plan_clips(TINY)[0]
    sound = read_wav(root / "audio" / f"{plan.name}.wav").astype(np.float64) / 32768
    assert len(sound) == round(plan.seconds * SAMPLE_RATE)
    with av.open(str(root / "video" / f"{plan.name}.mp4")) as container:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    length = min(len(sound), len(decoded))
    spectrum = np.fft.rfft(sound[:length], 2 * length) * np.conj(np.fft.rfft(decoded[:length], 2 * length))
    alignment = np.fft.irfft(spectrum).max()
    assert alignment / np.linalg.norm(sound[:length]) / np.linalg.norm(decoded[:length]) > 0.95


def test_face_crops_are_bgr_of_the_video_frames(root):
    name = plan_clips(TINY)[0].name
    crops = np.load(root / "openface_face" / name / f"{name}.npy")
    assert crops.dtype == np.uint8
    assert crops.shape == (8, 112, 112, 3)
    with av.open(str(root / "video" / f"{name}.mp4")) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    from_video = face_crops(frames).astype(float)
    difference = np.abs(from_video - crops[..., ::-1]).mean()
    assert difference < 8
    assert np.abs(from_video - crops).mean() > 2 * difference


def test_rendering_does_not_depend_on_workers(root, tmp_path):
    render_demo(tmp_path / "again", TINY, workers=2)
    assert contents(tmp_path / "again") == contents(root)


def test_same_settings_render_nothing_and_others_replace_the_set(tmp_path):
    folder = tmp_path / "set"
    one = RenderConfig(num_caption=1, num_exact=1, num_validation=0, num_test=0)
    render_demo(folder, one, workers=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    render_demo(folder, one, workers=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    render_demo(folder, replace(one, seed=9, num_exact=0), workers=1)
    assert [path.name for path in (folder / "video").iterdir()] == ["synthetic_caption_00000.mp4"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["set"]


def test_a_link_to_another_disk_stays_one(tmp_path):
    disk, link = tmp_path / "disk" / "set", tmp_path / "set"
    disk.mkdir(parents=True)
    link.symlink_to(disk)
    for seed in (1, 2):
        one = RenderConfig(seed=seed, num_caption=1, num_exact=0, num_validation=0, num_test=0)
        render_demo(link, one, workers=1)
        assert json.loads((disk / "demo.json").read_text())["settings"]["seed"] == seed
        assert link.is_symlink()


def test_a_set_that_lost_media_is_rendered_again(tmp_path):
    folder = tmp_path / "set"
    one = RenderConfig(num_caption=1, num_exact=0, num_validation=0, num_test=0)
    render_demo(folder, one, workers=1)
    before = contents(folder)
    (folder / "audio" / "synthetic_caption_00000.wav").unlink()
    render_demo(folder, one, workers=1)
    assert contents(folder) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not a synthetic set"):
        render_demo(tmp_path / "precious", TINY, workers=1)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "mine"


def test_a_failing_render_leaves_the_old_set(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    one = RenderConfig(num_caption=1, num_exact=0, num_validation=0, num_test=0)
    render_demo(folder, one, workers=1)
    before = contents(folder)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("affectgpt_r1.data.synthetic.render_clips.write_mp4", no_space)
    with pytest.raises(WriteError, match=r"set: cannot be written: No space left on device; .* another paths\.data="):
        render_demo(folder, replace(one, seed=2), workers=1)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["set"]


def test_training_texts_leave_validation_and_test_out(root):
    texts = demo_texts(root)
    plans = plan_clips(TINY)
    training = [plan for plan in plans if plan.split in ("caption", "human")]
    assert {plan.caption.reason for plan in training} <= set(texts)
    assert {", ".join(plan.caption.words) for plan in training} <= set(texts)
    assert not {plan.subtitle for plan in plans if plan.split in ("validation", "test")} - {""} & set(texts)
    assert "" not in texts


def test_training_texts_of_a_folder_without_labels_say_how_to_get_them(tmp_path):
    with pytest.raises(DataError, match="make demo-data"):
        demo_texts(tmp_path)


def faces(cues):
    return draw_face(PERSON, cues, np.zeros(16, np.float32), 8, 96, np.random.default_rng(0)).astype(float)


@pytest.mark.parametrize("cue", FACE_CUES)
def test_each_face_cue_is_visible_at_48_pixels(cue):
    def small(value):
        frames = faces(NEUTRAL_FACE | {cue: value})
        return frames.reshape(16, 48, 2, 48, 2, 3).mean((2, 4))

    grain = np.abs(small(0.0) - small(0.0)).max()
    assert grain == 0
    assert np.abs(small(0.8) - small(-0.8)).max() > 40


def test_faces_of_the_clusters_differ():
    stills = [faces(NEUTRAL_FACE), *(faces(FACE[cluster]) for cluster in FACE)]
    for number, one in enumerate(stills):
        for other in stills[:number]:
            assert np.sqrt(((one - other) ** 2).mean()) > 8


def voice(**cues):
    return render_voice(PERSON, NEUTRAL_VOICE | cues, 3.0, np.random.default_rng(0)).waveform.astype(float)


def strongest_pitch(sound):
    """Pitch in Hz by the autocorrelation of the sound, 70 to 450 Hz."""
    spectrum = np.abs(np.fft.rfft(sound, 2 * len(sound))) ** 2
    lags = np.fft.irfft(spectrum)
    shortest, longest = SAMPLE_RATE // 450, SAMPLE_RATE // 70
    return SAMPLE_RATE / (shortest + int(lags[shortest:longest].argmax()))


def test_pitch_cue_raises_the_pitch():
    quiet_melody = {"pitch_range": -1.0, "tremor": -1.0, "breath": -1.0}
    for cue in (-0.8, 0.0, 0.8):
        expected = PERSON.pitch * 2 ** (0.65 * cue)
        assert strongest_pitch(voice(pitch=cue, **quiet_melody)) == pytest.approx(expected, rel=0.05)


def test_slope_cue_bends_the_pitch():
    sound = voice(pitch_slope=1.0, pitch_range=-1.0, tremor=-1.0, breath=-1.0)
    assert strongest_pitch(sound[-16_000:]) > 1.3 * strongest_pitch(sound[:16_000])


def test_energy_cue_makes_the_voice_louder_and_brighter():
    loud, soft = voice(energy=0.9, breath=-1.0), voice(energy=-0.9, breath=-1.0)
    assert loud.std() > 4 * soft.std()

    def high_share(sound):
        power = np.abs(np.fft.rfft(sound)) ** 2
        return power[6000:].sum() / power.sum()  # from 2 kHz

    assert high_share(loud) > 2 * high_share(soft)


def test_rate_cue_sets_the_number_of_syllables():
    def syllables(rate):
        opening = render_voice(PERSON, NEUTRAL_VOICE | {"rate": rate}, 3.0, np.random.default_rng(0)).syllables
        return int(((opening[1:] > 0.3) & (opening[:-1] <= 0.3)).sum())

    assert syllables(-0.8) == pytest.approx(3 * 3.6 * 2**-0.64, abs=1)
    assert syllables(0.8) == pytest.approx(3 * 3.6 * 2**0.64, abs=1)


def test_voices_of_the_clusters_stay_within_full_scale():
    for cues in VOICE.values():
        assert 0.01 < np.abs(voice(**cues)).max() < 0.99


@pytest.mark.parametrize("moment", ["the old set is removed", "the new set is moved"])
def test_a_render_that_was_killed_is_cleared_and_done_again(tmp_path, monkeypatch, moment):
    folder = tmp_path / "set"
    settings = RenderConfig(num_caption=1, num_exact=0, num_validation=0, num_test=0)
    render_demo(folder, settings, workers=1)
    before = contents(folder)
    partial = tmp_path / ".set.partial"
    shutil.copytree(folder, partial / "new")
    if moment == "the new set is moved":
        folder.rename(partial / "old")
    else:
        (partial / "old").mkdir()
    render_demo(folder, settings, workers=1)
    assert contents(folder) == before
    render_demo(folder, replace(settings, seed=2), workers=1)
    assert not partial.exists()


@pytest.mark.parametrize("name", ["subtitle_chieng.csv", "demo.json"])
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-9], lambda content: b"\xff\x00"])
def test_damaged_labels_are_rendered_again(tmp_path, name, damage):
    folder = tmp_path / "set"
    settings = RenderConfig(num_caption=1, num_exact=0, num_validation=0, num_test=1)
    render_demo(folder, settings, workers=1)
    before = contents(folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    render_demo(folder, settings, workers=1)
    assert contents(folder) == before


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/set: cannot be written: .*; choose another paths\.data=$"):
        render_demo(tmp_path / "file" / "set", TINY)
