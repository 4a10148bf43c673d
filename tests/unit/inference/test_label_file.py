"""`predict`: rows, contributions, what is left out, and what is refused without stopping the rest."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from affectgpt_r1 import __version__
from affectgpt_r1.cli.predict import main
from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.data.media.media_search import find_media
from affectgpt_r1.data.media.subtitles import Cue
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError, MediaError
from affectgpt_r1.inference.find_subtitles import subtitle_beside, subtitle_file, subtitle_given
from affectgpt_r1.inference.label_file import Predictor, predict_files
from affectgpt_r1.inference.load_policy import config_of_checkpoint
from affectgpt_r1.inference.read_file import GIVEN, ReadOptions, Said, read_clip, read_clips
from affectgpt_r1.policy.hf_export import export_policy
from affectgpt_r1.types import Sampling
from helpers.films import add_subtitles

MEDIA = MediaSettings(num_frames=3, image_size=48, num_windows=2)

WITHOUT_TEXT = (
    "answered without text: give what is said by --subtitle, as an .srt next to the file, or as a text track inside it"
)


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
    assert (row["name"], row["openset"]) == ("clip", row["labels"])  # so that `affectgpt-r1 score` reads it


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
    assert "the answer names no emotion" in row["notes"][-1]


def test_what_a_file_lacks_is_left_out_and_said(write_video, write_wave, tmp_path: Path):
    silent, notes = read_clip(write_video(tmp_path / "silent.mp4"), "", MEDIA, "centre")
    assert (silent.modalities, silent.waveform) == (("video",), None)
    assert notes == ["answered without audio, which the file does not have", WITHOUT_TEXT]
    voice, _ = read_clip(write_wave(tmp_path / "voice.wav", 3.0), "hello", MEDIA, "centre")
    assert (voice.modalities, voice.frames) == (("audio", "text"), None)
    assert silent.frames.shape == (3, 3, 48, 48)
    assert voice.waveform.shape == (2, 32_000)


def test_a_subtitle_track_is_read_where_nothing_else_says_it(write_video, tmp_path: Path):
    (tmp_path / "lines.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nLeave me alone!\n", "utf-8")
    plain = write_video(tmp_path / "plain.mkv")
    titled = add_subtitles(plain, tmp_path / "lines.srt", tmp_path / "titled.mkv")
    clip, notes = read_clip(titled, subtitle_beside(titled), MEDIA, "centre")
    assert (clip.modalities, clip.subtitle) == (("video", "text"), "Leave me alone!")
    assert notes[0] == "what is said is from its subtitle track (subrip)"
    assert read_clip(titled, "", MEDIA, "centre")[1][-1] == WITHOUT_TEXT
    assert read_clip(titled, "I am happy", MEDIA, "centre")[0].subtitle == "I am happy"
    silent = MediaSettings(modalities=("video",), num_frames=3, image_size=48)
    assert read_clip(titled, None, silent, "centre")[1] == []
    (tmp_path / "titled.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nBeside.\n", "utf-8")
    assert next(read_clips(titled, subtitle_beside(titled), MEDIA, ReadOptions("centre"))).clip.subtitle == "Beside."


def test_of_a_whole_films_text_the_beginning_is_read(write_video, tmp_path: Path):
    clip, notes = read_clip(write_video(tmp_path / "clip.mp4"), " I am sad." * 10_000, MEDIA, "centre")
    assert len(clip.subtitle) == 2000
    assert notes[0] == "of 99999 characters that are said, the first 2000 are read"


def test_a_faceless_video_says_so(write_video, tmp_path: Path):
    clip, notes = read_clip(write_video(tmp_path / "clip.mp4"), "hello", MEDIA, "detect")
    assert notes[0] == "no face found: the middle of each frame replaces it"
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
    assert rows.count(None) == 3


def test_a_file_that_holds_less_than_its_header_promises_says_so(write_video, tmp_path: Path):
    whole = write_video(tmp_path / "whole.mkv", [index / 10 for index in range(300)], size=(320, 240))
    without_sound = "answered without audio, which the file does not have"
    assert read_clip(whole, "", MEDIA, "centre")[1] == [without_sound, WITHOUT_TEXT]
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    assert re.search(r"promises 30 s and the file holds \d+ s", read_clip(cut, "", MEDIA, "centre")[1][0])


def test_subtitles_from_text_file_or_neighbour(tmp_path: Path):
    (tmp_path / "clip.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nNever mind.\n", encoding="utf-8")
    assert subtitle_beside(tmp_path / "clip.mp4") == Said((Cue(1.0, 2.0, "Never mind."),), "clip.srt")
    assert subtitle_beside(tmp_path / "other.mp4") is None
    (tmp_path / "DSC_1.SRT").write_bytes((tmp_path / "clip.srt").read_bytes())
    assert subtitle_beside(tmp_path / "DSC_1.MP4").source == "DSC_1.SRT"
    assert subtitle_given(str(tmp_path / "clip.srt")) == subtitle_beside(tmp_path / "clip.mp4")
    assert subtitle_given("Yes.") == Said((Cue(0.0, math.inf, "Yes."),), GIVEN)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["clip.de.srt", "clip.en.srt"], "clip.en.srt"),
        (["clip.zh-Hans.vtt", "clip.de.srt"], "clip.de.srt"),
        (["clip.en.srt", "clip.vtt"], "clip.vtt"),
        (["clip.ass", "clip.vtt"], "clip.vtt"),
        (["clip.2.srt", "clip2.srt", "clip.srt.txt"], None),
    ],
)
def test_of_several_subtitle_files_a_players_choice(tmp_path: Path, names, taken):
    for name in names:
        (tmp_path / name).write_text("")
    found = subtitle_file(tmp_path / "clip.mp4")
    assert (found and found.name) == taken


def test_a_missing_checkpoint_is_named(write_video, tmp_path: Path, capsys):
    path = write_video(tmp_path / "clip.mp4")
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--checkpoint", str(tmp_path / "none" / "checkpoints" / "best.ckpt")])
    assert stop.value.code == 2
    assert "best.ckpt: no such file; --checkpoint names" in capsys.readouterr().err


@pytest.fixture
def exported(predictor, tiny_config, tokenizer_file, tmp_path: Path) -> Path:
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
    return tmp_path / "exported"


def test_an_exported_folder_predicts_as_the_policy_does(predictor, exported: Path, write_video, tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", sound=True)
    expected = predictor(path, "I am happy")
    main([str(path), "--checkpoint", str(exported), "--subtitle", "I am happy", "--faces", "centre",
          "--output", str(tmp_path / "rows.jsonl"), "--samples", "0"])  # fmt: skip
    row = json.loads((tmp_path / "rows.jsonl").read_text("utf-8"))
    digest = hashlib.sha256((exported / "affectgpt_r1.json").read_bytes()).hexdigest()[:16]
    assert row.pop("policy") == {
        "checkpoint": str(exported), "digest": f"sha256:{digest}", "lexicon": "bundled", "version": __version__
    }  # fmt: skip
    assert {**row, "seconds": 0} == {**expected, "seconds": 0}


def test_a_bad_subtitle_next_to_one_video_does_not_stop_the_rest(exported: Path, write_video, tmp_path: Path, capsys):
    (tmp_path / "films").mkdir()
    for name in ("good", "bad"):
        write_video(tmp_path / "films" / f"{name}.mp4")
    (tmp_path / "films" / "bad.srt").write_text("no times")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "films"), "--checkpoint", str(exported), "--faces", "centre", "--no-contributions"])
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert [Path(json.loads(line)["file"]).name for line in printed.out.splitlines()] == ["good.mp4"]
    assert "bad.mp4: " in printed.err
    assert "bad.srt: has no" in printed.err
    assert "1 of 2 files were answered; 1 could not be" in printed.err


def test_an_interruption_keeps_what_is_answered(exported: Path, write_video, tmp_path: Path, monkeypatch, capsys):
    first, second = write_video(tmp_path / "a.mp4"), write_video(tmp_path / "b.mp4")
    answer = Predictor.rows

    def interrupted(self, path, subtitle):
        if path == second:
            raise KeyboardInterrupt
        return answer(self, path, subtitle)

    monkeypatch.setattr(Predictor, "rows", interrupted)
    output = tmp_path / "new" / "folder" / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        main([str(first), str(second), "--checkpoint", str(exported), "--faces", "centre", "--output", str(output)])
    assert [json.loads(line)["file"] for line in output.read_text("utf-8").splitlines()] == [str(first)]
    assert "1 of 2 files were answered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--device", "nonsense"], "--device nonsense cannot be used"),
        (["--output", "CLIP"], "is one of the files that are read"),
        (["--output", "CLIP/rows.jsonl"], "cannot be written"),
        (["--output", "FOLDER"], "cannot be written: Is a directory"),
        (["--subtitle", "CLIP"], "takes what is said, or an .srt, .vtt or .ass file"),
        (["--subtitle", "gone.srt"], "gone.srt: cannot be read: No such file"),
    ],
)
def test_wrong_options_are_one_line(exported, write_video, tmp_path: Path, capsys, arguments, complaint: str):
    path = write_video(tmp_path / "clip.mp4")
    given = [part.replace("CLIP", str(path)).replace("FOLDER", str(tmp_path)) for part in arguments]
    before = path.read_bytes()
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--checkpoint", str(exported), *given])
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2
    assert last.startswith("affectgpt-r1 predict: ")
    assert complaint in last
    assert path.read_bytes() == before


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint with the configuration of its run, and without weights."""

    def write(*overrides: str) -> Path:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            trained = compose("train", overrides=list(overrides))
        checkpoint = tmp_path / "best.ckpt"
        torch.save({"state_dict": {}, "config": OmegaConf.to_container(trained, resolve=True)}, checkpoint)
        return checkpoint

    return write


def test_a_misspelt_key_of_set_is_refused(written):
    checkpoint = written("prompt=think")
    config = config_of_checkpoint(checkpoint, ["paths.root=/data"])
    assert (config.prompt.enable_thinking, config.paths.root, config.paths.outputs) == (True, "/data", "/data/outputs")
    assert config.model.tokenizer == "/data/data/synthetic/tokenizer/tokenizer.json"
    assert config_of_checkpoint(checkpoint, ["emotion=mer2025"]).emotion.lexicon == "mer2025"
    with pytest.raises(ConfigError, match=r"paths\.rot is not a key .* the nearest is paths\.root"):
        config_of_checkpoint(checkpoint, ["paths.rot=/data"])
    with pytest.raises(ConfigError, match=r"--set clip\.mp4: give KEY=VALUE"):
        config_of_checkpoint(checkpoint, ["clip.mp4"])
    with pytest.raises(ConfigError, match=r"emotion=mer2027: there is no"):
        config_of_checkpoint(checkpoint, ["emotion=mer2027"])


def test_a_runs_model_keeps_nothing_of_the_default_one(written):
    """Of HuBERT-large's convolutions ``affectgpt_7b`` says nothing; those of ``tiny`` are not its own."""
    checkpoint = written("experiment=affectgpt_r1/grpo")
    config = config_of_checkpoint(checkpoint, [])
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        trained = compose("train", overrides=["experiment=affectgpt_r1/grpo"])
    machine = {"gradient_checkpointing": False}
    assert OmegaConf.to_container(config.model) == {**OmegaConf.to_container(trained.model, resolve=True), **machine}
    assert config.prompt == trained.prompt
    assert config.data.image_size == 224
    assert config.encoders_from is None


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
