"""`predict`: rows, contributions, what is left out, and what is refused without stopping the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.policy.export import export_policy
from affectgpt_r1.predict import main, subtitle_of
from affectgpt_r1.prediction import Predictor, find_media, predict_files, read_clip
from affectgpt_r1.types import Sampling

MEDIA = MediaSettings(num_frames=3, image_size=48, num_windows=2)


@pytest.fixture
def predictor(tiny_policy) -> Predictor:
    tiny_policy.eval()
    sampling = Sampling(temperature=0.0, max_completion_length=6)
    return Predictor(tiny_policy, MEDIA, sampling, load_lexicon("bundled"), faces="centre")


def test_a_row_of_a_clip_with_everything(predictor, write_video, tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", sound=True)
    row = predictor(path, "I am happy")
    assert row["file"] == str(path)
    assert row["modalities"] == ["video", "audio", "text"]
    assert set(row["contributions"]) == {"video", "audio", "text"}
    assert set(row["clusters"]) == {f"wheel{wheel}" for wheel in range(1, 6)}
    assert row["seconds"] > 0


def test_the_contribution_is_what_the_answer_loses_without_the_modality(predictor, write_video, tmp_path: Path):
    clip, _ = read_clip(write_video(tmp_path / "clip.mp4", sound=True), "I am happy", MEDIA, "centre")
    _, contributions = predictor._answer(clip)
    policy = predictor.policy
    from dataclasses import replace

    from affectgpt_r1.data.collate import collate

    batch = collate([clip])
    rollout = policy.generate(batch, 1, predictor.sampling)
    with torch.no_grad():
        whole = policy.per_token_logps(batch, rollout.completions).sum()
        silent = policy.per_token_logps(replace(batch, modalities=(("video", "text"),)), rollout.completions).sum()
    assert contributions["audio"]["log_probability"] == pytest.approx(float(whole - silent), abs=1e-3)


def test_meaning_of_labels(predictor):
    meaning = predictor._meaning(["happy", "sad", "joyful", "zzz"])
    lexicon = predictor.lexicon
    assert meaning["clusters"]["wheel1"] == sorted({lexicon.cluster("happy", 1), lexicon.cluster("sad", 1)})
    assert (meaning["unmapped"], meaning["polarity"]) == (["zzz"], "positive")


def test_without_an_answer_the_words_of_the_text_are_taken(predictor, write_video, tmp_path: Path, monkeypatch):
    answer = {"labels": [], "completion": "She is not happy but worried.", "answer": None}
    monkeypatch.setattr(Predictor, "_answer", lambda self, clip: (dict(answer), {}))
    row = predictor(write_video(tmp_path / "clip.mp4"), "")
    assert row["labels"] == ["worried"]
    assert "no well-formed answer" in row["notes"][-1]


def test_what_a_file_lacks_is_left_out_and_said(write_video, write_wave, tmp_path: Path):
    silent, notes = read_clip(write_video(tmp_path / "silent.mp4"), "", MEDIA, "centre")
    assert (silent.modalities, silent.waveform) == (("video",), None)
    assert notes == ["answered without audio and text, which the file does not have"]
    voice, _ = read_clip(write_wave(tmp_path / "voice.wav", 3.0), "hello", MEDIA, "centre")
    assert (voice.modalities, voice.frames) == (("audio", "text"), None)
    assert silent.frames.shape == (3, 3, 48, 48)
    assert voice.waveform.shape == (2, 32_000)


def test_a_faceless_video_says_so(write_video, tmp_path: Path):
    clip, notes = read_clip(write_video(tmp_path / "clip.mp4"), "hello", MEDIA, "detect")
    assert notes[0] == "no face found: the middle of each frame stands in for it"
    assert int(clip.frames[0, 0, 4].min()) > 150  # the middle of the frame, red on top


def test_a_policy_of_sound_alone_refuses_a_silent_film(write_video, tmp_path: Path):
    media = MediaSettings(modalities=("audio",), num_windows=2)
    with pytest.raises(MediaError, match=r"clip\.mp4: has none of the modalities .* \(audio\)"):
        read_clip(write_video(tmp_path / "clip.mp4"), "", media, "centre")


def test_bad_files_do_not_stop_the_rest(predictor, write_video, tmp_path: Path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    good = write_video(tmp_path / "good film, ünïcode 映画.mp4")
    files = find_media([tmp_path])
    failures: dict[Path, str] = {}
    rows = list(predict_files(predictor, dict.fromkeys(files, ""), failures))
    assert [row["file"] for row in rows if row is not None] == [str(good)]
    assert {path.name for path in failures} == {"empty.mp4", "text.mp4"}
    assert len(rows) == 3


def test_what_is_not_there_is_refused_by_name(tmp_path: Path):
    with pytest.raises(DataError, match="gone: no such file"):
        find_media([tmp_path / "gone"])
    with pytest.raises(DataError, match="holds no media file"):
        find_media([tmp_path])


def test_subtitles_from_text_file_or_neighbour(tmp_path: Path):
    (tmp_path / "clip.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nNever mind.\n", encoding="utf-8")
    assert subtitle_of(tmp_path / "clip.mp4", None) == "Never mind."
    assert subtitle_of(tmp_path / "other.mp4", None) == ""
    assert subtitle_of(tmp_path / "other.mp4", str(tmp_path / "clip.srt")) == "Never mind."
    assert subtitle_of(tmp_path / "clip.mp4", "Yes.") == "Yes."


def test_a_missing_checkpoint_is_named(write_video, tmp_path: Path, capsys):
    path = write_video(tmp_path / "clip.mp4")
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--checkpoint", str(tmp_path / "none" / "checkpoints" / "best.ckpt")])
    assert stop.value.code == 2
    assert "best.ckpt: no such file; --checkpoint names" in capsys.readouterr().err


def test_an_exported_folder_predicts_as_the_policy_does(
    predictor, tiny_config, tokenizer_file, write_video, tmp_path: Path
):
    path = write_video(tmp_path / "clip.mp4", sound=True)
    expected = predictor(path, "I am happy")
    processor = {"modalities": ["video", "audio", "text"], "num_frames": 3, "image_size": 48, "num_windows": 2}
    export_policy(
        predictor.policy,
        {**tiny_config, "tokenizer": str(tokenizer_file)},
        tmp_path / "exported",
        kind="merged",
        processor=processor,
        max_completion_length=6,
        card="",
    )
    main([str(path), "--checkpoint", str(tmp_path / "exported"), "--subtitle", "I am happy", "--faces", "centre",
          "--output", str(tmp_path / "rows.jsonl")])  # fmt: skip
    row = json.loads((tmp_path / "rows.jsonl").read_text("utf-8"))
    assert {**row, "seconds": 0} == {**expected, "seconds": 0}


@pytest.mark.slow
def test_memory_stays_flat_over_500_clips(predictor, write_video, tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", sound=True)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    files = {tmp_path / f"{number}.mp4": "" for number in range(500)}
    for file in files:
        file.symlink_to(path)
    sizes = [resident() for row in predict_files(predictor, files, {}) if row is not None]
    assert len(sizes) == 500
    print(f"resident: {sizes[49] / 2**20:.0f} MiB after 50 clips, {sizes[-1] / 2**20:.0f} MiB after 500")
    assert sizes[-1] - sizes[49] < 30 * 2**20
