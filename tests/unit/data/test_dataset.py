import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from affectgpt_r1.data.collate import batch_to_device, collate
from affectgpt_r1.data.dataset import ClipDataset, MediaSettings
from affectgpt_r1.data.feature_store import FeatureStore
from affectgpt_r1.data.layouts.manifest import read_manifest
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import Clip, UnreadableClip

SMALL = MediaSettings(image_size=16)


@pytest.fixture
def root(tmp_path, tiny_data_root):
    return tiny_data_root(tmp_path)


def dataset(root, media=SMALL, **options):
    rows = read_manifest(root, "track2_train_mercaptionplus.csv", reasons="track3_train_mercaptionplus.csv")
    return ClipDataset(rows, root, media, **({"seed": 0} | options))


def test_a_clip_carries_its_row_and_media(root):
    clip = dataset(root)[SampleKey(2, 0)]
    assert (clip.name, clip.subtitle, clip.labels) == ("sample_02", "line 2", ("angry", "nervous"))
    assert clip.reason == "The voice sounds angry."
    assert clip.modalities == ("video", "audio", "text")
    assert clip.frames.shape == (8, 3, 16, 16)
    assert clip.frames[0, :, 0, 0].tolist() == [180, 0, 20]
    assert clip.waveform.shape == (8, 32_000)
    assert dataset(root)[SampleKey(1, 0)].subtitle == ""


def test_frames_channel_order_and_flat_face_crops(root):
    rgb = dataset(root, replace(SMALL, channel_order="rgb"))[SampleKey(2, 0)]
    assert rgb.frames[0, :, 0, 0].tolist() == [20, 0, 180]
    frames = dataset(root, replace(SMALL, visual="frame"))[SampleKey(0, 0)].frames
    assert frames.shape == (8, 3, 16, 16)
    assert np.abs(frames[:, :, 8, 13].float().mean(1).numpy() - 8 * np.arange(0, 24, 3)).max() < 6
    nested = root / "openface_face" / "sample_02"
    shutil.move(nested / "sample_02.npy", root / "openface_face" / "sample_02.npy")
    nested.rmdir()
    assert dataset(root)[SampleKey(2, 0)].frames[0, :, 0, 0].tolist() == [180, 0, 20]


def test_only_modalities_that_are_on_are_opened(root):
    shutil.rmtree(root / "audio")
    shutil.rmtree(root / "video")
    clip = dataset(root, replace(SMALL, modalities=("video", "text")))[SampleKey(0, 0)]
    assert clip.waveform is None
    assert clip.modalities == ("video", "text")
    shutil.rmtree(root / "openface_face")
    clip = dataset(root, replace(SMALL, modalities=("text",)))[SampleKey(0, 0)]
    assert clip.frames is None


def test_without_a_wav_the_mp4_sounds(root):
    (root / "audio" / "sample_01.wav").unlink()
    clip = dataset(root)[SampleKey(1, 0)]
    assert torch.fft.rfft(clip.waveform[4]).abs().argmax() == 2 * 220


def test_modality_dropout_leaves_media_and_never_drops_all(root):
    clips = dataset(root, replace(SMALL, num_windows=1, num_frames=1), modality_dropout=0.5)
    kept = [clips[SampleKey(index, epoch)].modalities for epoch in range(25) for index in range(8)]
    counts = {modality: sum(modality in some for some in kept) for modality in ("video", "audio", "text")}
    # P(kept) = 1/2 + P(all dropped) / 3 = 0.5417; 200 draws have a standard deviation of 7.
    assert all(80 <= count <= 136 for count in counts.values()), counts
    assert min(len(some) for some in kept) == 1
    assert clips[SampleKey(3, 7)].modalities == clips[SampleKey(3, 7)].modalities
    everything_dropped = dataset(root, modality_dropout=1.0)[SampleKey(0, 0)]
    assert len(everything_dropped.modalities) == 1
    assert everything_dropped.frames is not None
    assert everything_dropped.waveform is not None


def test_training_redraws_the_same_clip_every_time(root):
    (root / "audio" / "sample_03.wav").write_bytes(b"")
    clips = dataset(root, on_unreadable="resample")
    first, second = clips[SampleKey(3, 0)], clips[SampleKey(3, 0)]
    assert first.name == second.name != "sample_03"
    assert [unreadable.name for unreadable in first.unreadable] == ["sample_03"]
    assert "sample_03.wav: cannot be read as sound" in first.unreadable[0].reason
    assert len({clips[SampleKey(3, epoch)].name for epoch in range(12)}) > 2


def test_redraws_come_to_an_end(root):
    shutil.rmtree(root / "openface_face")
    with pytest.raises(DataError, match="11 clips in a row could not be read"):
        dataset(root, on_unreadable="resample")[SampleKey(0, 0)]


def test_evaluation_drops_and_lists(root):
    (root / "audio" / "sample_03.wav").write_bytes(b"")
    clips = dataset(root, on_unreadable="drop")
    items = [clips[SampleKey(index, 0)] for index in range(2, 5)]
    assert isinstance(items[1], UnreadableClip)
    batch = collate(items)
    assert batch.names == ("sample_02", "sample_04")
    assert batch.frames.shape == (2, 8, 3, 16, 16)
    assert batch.waveforms.shape == (2, 8, 32_000)
    assert [clip.name for clip in batch.unreadable] == ["sample_03"]


def test_a_batch_may_be_empty():
    batch = collate([UnreadableClip("a", "broken")])
    assert len(batch) == 0
    assert batch.frames is None
    assert batch.features == {}
    assert batch.unreadable == (UnreadableClip("a", "broken"),)


def test_collate_keeps_redrawn_clips_and_stacks_cues():
    clips = [
        Clip("a", "", (), "", ("text",), cues={"pitch": 0.5}, unreadable=(UnreadableClip("x", "broken"),)),
        Clip("b", "hi", ("sad",), "so", ("text",), cues={"pitch": -1.0}),
    ]
    batch = collate(clips)
    assert batch.cues["pitch"].tolist() == [0.5, -1.0]
    assert batch.cues["pitch"].dtype == torch.float32
    assert batch.labels == ((), ("sad",))
    assert batch.unreadable == (UnreadableClip("x", "broken"),)


def test_features_stand_in_place_of_media(root, tmp_path):
    store = FeatureStore(tmp_path / "store")
    for number in range(8):
        store.write(f"sample_{number:02d}", {"video": torch.full((8, 4), number), "audio": torch.full((8, 6), -number)})
    store.mark_unreadable(UnreadableClip("sample_07", "broken"))
    for folder in ("video", "audio", "openface_face"):
        shutil.rmtree(root / folder)
    clips = dataset(root, features=store)
    batch = collate([clips[SampleKey(index, 0)] for index in (2, 5)])
    assert batch.frames is None
    assert batch.waveforms is None
    assert batch.features["video"].shape == (2, 8, 4)
    assert batch.features["audio"][:, 0, 0].tolist() == [-2, -5]
    only_video = dataset(root, replace(SMALL, modalities=("video",)), features=store)[SampleKey(2, 0)]
    assert list(only_video.features) == ["video"]


def test_clips_that_were_unreadable_when_the_store_was_filled_are_dropped(root, tmp_path):
    store = FeatureStore(tmp_path / "store")
    store.mark_unreadable(UnreadableClip("sample_03", "sample_03.wav: empty"))
    clips = dataset(root, features=store)
    assert clips[SampleKey(3, 0)] == UnreadableClip("sample_03", "sample_03.wav: empty")
    with pytest.raises(DataError, match="no features of 'sample_04'"):
        clips[SampleKey(4, 0)]
    store.write("sample_05", {"video": torch.zeros(8, 4)})
    with pytest.raises(DataError, match="'sample_05' has no audio features"):
        clips[SampleKey(5, 0)]


def test_batches_move_whole():
    batch = collate([Clip("a", "", (), "", ("video",), frames=torch.zeros(1, 3, 2, 2), cues={"pitch": 1.0})])
    moved = batch_to_device(batch, torch.device("meta"))
    assert moved.frames.device.type == moved.cues["pitch"].device.type == "meta"
    assert moved.waveforms is None
    assert moved.names == ("a",)
