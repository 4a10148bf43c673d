import inspect
import os
import shutil

import pandas as pd
import pytest
import torch
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.data.datamodule import (
    ClipDataModule,
    MERCaptionDataModule,
    OVMERDataModule,
)
from affectgpt_r1.data.fill_feature_store import fill_feature_store
from affectgpt_r1.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path, tiny_data_root):
    return tiny_data_root(tmp_path / "data")


def ready(root, kind=OVMERDataModule, **options):
    datamodule = kind(
        str(root),
        **({"test_labels": "test.csv", "image_size": 16, "batch_size": 3, "val_fraction": 0.25} | options),
    )
    datamodule.setup("fit")
    return datamodule


def names(rows):
    return [row.name for row in rows]


def test_splits_and_subsets_are_chosen_by_name(root):
    datamodule = ready(root)
    train, validation, test = (names(rows) for rows in datamodule.splits[:3])
    assert len(train) == 6
    assert len(validation) == 2
    assert sorted(train + validation) == [f"sample_{number:02d}" for number in range(8)]
    assert test == [f"sample_{number:02d}" for number in range(8, 12)]
    assert names(ready(root, seed=9).splits.validation) == validation
    four, two = ready(root, subset=4), ready(root, subset=2)
    assert names(two.splits.train) == names(four.splits.train)[:2]
    assert names(four.splits.validation) == validation


def test_the_subtitles_of_all_splits_are_read_once(root, monkeypatch):
    read, opened = pd.read_csv, []
    monkeypatch.setattr(pd, "read_csv", lambda path, **options: opened.append(path.name) or read(path, **options))
    splits = ready(root).splits

    assert sorted(opened) == ["subtitle_chieng.csv", "test.csv", "track2_train_ovmerd.csv"]
    assert [row.subtitle for row in splits.test] == [f"line {number}" for number in range(8, 12)]


def test_both_variants_read_their_published_files(root):
    (root / "track3_train_ovmerd.csv").write_text((root / "track3_train_mercaptionplus.csv").read_text())
    caption = ready(root, MERCaptionDataModule).splits.train
    exact = ready(root).splits.train
    explained = ready(root, train_reasons="track3_train_ovmerd.csv").splits.train
    assert names(caption) == names(exact)
    assert {row.reason for row in exact} == {""}
    assert [row.reason for row in caption] == [row.reason for row in explained]
    assert caption[0].reason.startswith("The voice sounds")
    assert [row.labels for row in caption] == [row.labels for row in exact]


def test_subtitles_are_read_for_the_text_modality_only(root):
    (root / "subtitle_chieng.csv").unlink()
    assert {row.subtitle for row in ready(root, modalities=["audio"]).splits.rows()} == {""}
    with pytest.raises(DataError, match=r"subtitle_chieng\.csv: no such file"):
        ready(root)


def test_srt_files_beside_silent_clips_are_told_of(root, caplog):
    ready(root, subtitles=None)
    assert caplog.records == []
    for clip in (root / "video").iterdir():
        clip.with_suffix(".srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    ready(root, modalities=["video"])
    ready(root)
    assert caplog.records == []
    ready(root, subtitles=None)
    assert [".srt is not read: subtitles come from data.subtitles" in record.message for record in caplog.records] == [
        True
    ]


def test_overlapping_splits_fail(root):
    (root / "test.csv").write_text("name,openset\nsample_09,sad\nsample_03,sad\n")
    with pytest.raises(DataError, match=r"sample_03 \(rows 5 and 3\)"):
        ready(root)
    with pytest.raises(DataError, match="are in two splits"):
        ready(root, test_labels=None, validation_labels="track2_train_mercaptionplus.csv")


def test_supervised_clips_are_read_encoded_once_and_never_evaluated(root):
    (root / "more.csv").write_text("name,openset\nsample_00,happy\nsample_06,sad\n")
    datamodule = ready(root, supervised_labels="more.csv", val_fraction=0.0)
    assert names(datamodule.splits.supervised) == ["sample_00", "sample_06"]
    assert len(datamodule.splits.rows()) == len(set(names(datamodule.splits.rows()))) == 12
    assert datamodule.file_digests().keys() >= {"train_labels", "supervised_labels"}
    assert [file.split for file in datamodule.label_files()] == ["train", "test", "supervised"]
    datamodule.use_supervised(2)
    batch = next(iter(datamodule.train_dataloader()))
    assert (len(batch), sorted(batch.supervised.names)) == (3, ["sample_00", "sample_06"])
    (root / "more.csv").write_text("name,openset\nsample_09,happy\n")
    with pytest.raises(DataError, match=r"1 clips are in two splits: sample_09"):
        ready(root, supervised_labels="more.csv")


def test_names_without_media_fail_only_for_modalities_that_are_on(root):
    (root / "openface_face" / "sample_09" / "sample_09.npy").unlink()
    with pytest.raises(DataError, match=r"row 3 \(sample_09\): openface_face/sample_09/sample_09\.npy"):
        ready(root)
    assert len(ready(root, modalities=["audio", "text"]).splits.test) == 4


@pytest.mark.parametrize(
    "option", [{"modalities": ["smell"]}, {"modalities": []}, {"visual": "body"}, {"channel_order": "gbr"},
               {"decoder": "opencv"}, {"windows": "odd"}, {"frame_resize": "stretch"}, {"face_resize": "pil"},
               {"empty_subtitle": "say"}]
)  # fmt: skip
def test_unknown_settings_are_refused(root, option):
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(option))}="):
        ready(root, **option)


def test_cues_must_cover_the_clips(root):
    batch = next(iter(ready(root, cues_file="cues.jsonl").test_dataloader()))
    assert batch.cues["pitch"].tolist() == pytest.approx([0.8, 0.9, 1.0, 1.1])
    assert ready(root).train_dataloader().dataset.cues is None
    lines = (root / "cues.jsonl").read_text().splitlines()
    (root / "cues.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match=r"cues\.jsonl: has no row for 1 clips, the first is sample_11"):
        ready(root, cues_file="cues.jsonl")


def same(first, second):
    assert (first.names, first.modalities, first.unreadable) == (second.names, second.modalities, second.unreadable)
    assert torch.equal(first.frames, second.frames)
    assert torch.equal(first.waveforms, second.waveforms)


def test_workers_change_nothing(root):
    (root / "audio" / "sample_02.wav").write_bytes(b"")
    alone = list(ready(root, modality_dropout=0.5, visual="frame").train_dataloader())
    workers = list(ready(root, modality_dropout=0.5, visual="frame", num_workers=2).train_dataloader())
    assert len(alone) == len(workers) == 2
    for first, second in zip(alone, workers, strict=True):
        same(first, second)


def test_resuming_continues_batches_bit_by_bit(root):
    def batches(datamodule, epoch):
        loader = datamodule.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(epoch)  # as the Trainer does
        return list(loader)

    epochs = [batches(ready(root, modality_dropout=0.5, batch_size=2), epoch) for epoch in (2, 3)]
    resumed = ready(root, modality_dropout=0.5, batch_size=2)
    resumed.resume_position(2, 1)
    for epoch, expected in ((2, epochs[0][1:]), (3, epochs[1])):
        got = batches(resumed, epoch)
        assert len(got) == len(expected)
        for first, second in zip(got, expected, strict=True):
            same(first, second)
    assert epochs[0][0].names != epochs[1][0].names


def test_making_iterators_leaves_the_global_random_state_alone(root):
    datamodule = ready(root)
    state = torch.get_rng_state()
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_drops_what_cannot_be_read(root):
    (root / "video" / "sample_09.mp4").write_text("text")
    (batch,) = ready(root, visual="frame").test_dataloader()
    assert batch.names == ("sample_08", "sample_10", "sample_11")
    assert [clip.name for clip in batch.unreadable] == ["sample_09"]


def encode(batch):
    return {
        "video": batch.frames.float().mean(dim=(-1, -2)),
        "audio": batch.waveforms.std(dim=-1, keepdim=True),
    }


def test_the_feature_store_fills_once_and_replaces_media(root, tmp_path):
    options = {"feature_store": str(tmp_path / "store"), "visual": "face", "eval_batch_size": 5}
    datamodule = ready(root, **options)
    (media_batch,) = ready(root).test_dataloader()
    store = datamodule.open_feature_store("encoders")
    assert len(datamodule.rows_without_features(store)) == 12
    assert fill_feature_store(datamodule, lambda missing: encode).count == 0
    again = ready(root, **options)
    assert again.open_feature_store("encoders").folder == store.folder
    assert again.open_feature_store("other encoders").folder != store.folder
    again.open_feature_store("encoders")

    def never(batch):
        raise AssertionError

    assert fill_feature_store(again, lambda missing: never).total == 0
    for folder in ("video", "audio", "openface_face"):
        shutil.rmtree(root / folder)
    (batch,) = again.evaluation_loader(again.splits.test)
    assert batch.frames is None
    assert batch.names == media_batch.names
    assert all(torch.equal(batch.features[key], value.half().float()) for key, value in encode(media_batch).items())


def test_damaged_features_are_all_encoded_again_and_counted_in_one_line(root, tmp_path, caplog):
    options = {"feature_store": str(tmp_path / "store"), "visual": "face"}
    datamodule = ready(root, **options)
    store = datamodule.open_feature_store("encoders")
    fill_feature_store(datamodule, lambda missing: encode)
    rows = datamodule.splits.rows()
    features = {row.name: store.read(row.name) for row in rows}
    (pack,) = store.folder.glob("*.pack")
    content = bytearray((pack / "features.f16").read_bytes())
    stride = len(content) // 12  # in the order of the rows
    for slot in (1, 4, 5):
        content[slot * stride + 3] ^= 1
    (pack / "features.f16").write_bytes(content[: 10 * stride + 5])
    lost = sorted(rows[slot].name for slot in (1, 4, 5, 10, 11))
    again, asked = ready(root, **options), []
    store = again.open_feature_store("encoders")
    fill_feature_store(again, lambda missing: asked.append(missing) or encode)
    assert asked == [5]
    assert [record.message for record in caplog.records if "damaged" in record.message] == [
        f"5 of 12 stored features in {store.folder} are damaged, and their clips are encoded again: " + ", ".join(lost)
    ]
    for name, stored in features.items():
        assert all(torch.equal(value, stored[key]) for key, value in store.read(name).items())
    fill_feature_store(again, lambda missing: asked.append(missing))
    assert asked == [5]


def test_filling_fails_above_the_share_and_does_not_retry(root, tmp_path):
    (root / "audio" / "sample_02.wav").write_bytes(b"")
    datamodule = ready(root, feature_store=str(tmp_path / "store"))
    store = datamodule.open_feature_store("encoders")
    with pytest.raises(DataError, match=r"1 of 12 .*sample_02\.wav"):
        fill_feature_store(datamodule, lambda missing: encode)
    assert datamodule.rows_without_features(store) == []
    (refusal,) = store.folder.glob("*/sample_02.unreadable")
    later = refusal.stat().st_mtime + 10
    os.utime(root / "audio" / "sample_02.wav", (later, later))
    assert names(ready(root).rows_without_features(store)) == ["sample_02"]


def test_a_store_must_be_named_and_opened(root):
    with pytest.raises(ConfigError, match=r"data\.feature_store is not set"):
        ready(root).open_feature_store("encoders")
    with pytest.raises(ConfigError, match="no feature store is open"):
        fill_feature_store(ready(root), lambda missing: encode)


def test_the_digest_follows_label_files(root):
    before = ready(root).digest()
    assert before == ready(root, batch_size=1).digest()
    (root / "test.csv").write_text((root / "test.csv").read_text().replace("happy", "sad"))
    assert ready(root).digest() != before


def test_the_digest_of_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone/track2_train_ovmerd\.csv: cannot be read: No such file.*paths\.data"):
        OVMERDataModule(str(tmp_path / "gone")).digest()


class Recorder(LightningModule):
    """Records the clips of each training batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.total = []

    def training_step(self, batch, batch_idx):
        self.total.append((self.current_epoch, batch_idx, batch.names))
        return (self.weight * batch.waveforms.std()).sum()

    def validation_step(self, batch, batch_idx):
        assert batch.names

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_sets_epochs_and_moves_batches(root, tmp_path):
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
                      default_root_dir=tmp_path)  # fmt: skip
    module = Recorder()
    trainer.fit(module, datamodule=ready(root, ClipDataModule, train_labels="track2_train_ovmerd.csv", batch_size=4))
    assert [(epoch, index) for epoch, index, _ in module.total] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    orders = [module.total[0][2] + module.total[1][2], module.total[2][2] + module.total[3][2]]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_every_option_is_a_key_of_the_configuration():
    keys = OmegaConf.load(CONFIGS / "data" / "mercaption.yaml")
    assert set(inspect.signature(ClipDataModule).parameters) <= set(keys)
