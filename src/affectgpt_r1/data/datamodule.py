"""Lightning data modules of data folders in the published layout."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from affectgpt_r1.data.collate import batch_to_device, collate
from affectgpt_r1.data.dataset import ClipDataset, MediaSettings
from affectgpt_r1.data.feature_store import ELSEWHERE, FeatureStore
from affectgpt_r1.data.layouts.annotations import QuestionSet
from affectgpt_r1.data.layouts.manifest import ManifestRow, listing
from affectgpt_r1.data.layouts.mer import AUDIO_PLACES, FACE_PLACES, VIDEO_PLACES, video_file
from affectgpt_r1.data.leakage import check_content, check_unseen
from affectgpt_r1.data.media.audio import WindowRule
from affectgpt_r1.data.media.video import ChannelOrder, FaceResize, FrameIndices, FrameResize
from affectgpt_r1.data.media_index import MediaState, index_media
from affectgpt_r1.data.packed_rows import FORMAT, PackedRows, pack_splits, read_packed_splits
from affectgpt_r1.data.samplers import ClipSampler, GenerationBatchSampler, GenerationSchedule
from affectgpt_r1.data.splits import LabelFile, SplitFiles, Splits, content_digest, read_split_cues, read_splits
from affectgpt_r1.data.supervised import MixedBatchSampler, MixedDataset, collate_mixed
from affectgpt_r1.errors import ConfigError, DataError, OnFault, refuse
from affectgpt_r1.io.files import clear_write_errors
from affectgpt_r1.io.garbage_collection import no_garbage_collection
from affectgpt_r1.types import MODALITIES, ClipBatch, Modality, Visual

log = logging.getLogger(__name__)

KEPT_FROM = 4096  # lines of the training labels
WORKER_TIMEOUT_SECONDS = 1800  # for a batch; decoders that do not end are stopped much earlier


class ClipDataModule(LightningDataModule):
    """Training, validation and test clips of one data folder.

    The Trainer must run with ``use_distributed_sampler=False``: the samplers divide the clips among processes.

    Args:
        root: Data folder in the published layout.
        train_labels: Label file of the training set, as the other files in ``root``.
        train_reasons: Reasons of the training set.
        validation_labels: Label file of the validation set; None splits ``val_fraction`` off the training set.
        test_labels: Label file of the test set.
        subtitles: Subtitle file; not read when the text modality is off.
        modalities: See :class:`~affectgpt_r1.data.dataset.MediaSettings`, as of the following up to ``empty_subtitle``.
        batch_size: Clips of a training batch, per process.
        eval_batch_size: Clips of any other batch; what a GPU's memory does not take at once is answered in parts.
        num_workers: Worker processes of each loader.
        seed: Seed of order, modality dropout and resamples.
        subset: Train on this many clips only, the same ones everywhere.
        modality_dropout: Probability of leaving a modality out of a training prompt.
        feature_store: Folder of the stores of frozen-encoder outputs; see :meth:`open_feature_store`.
        cues_file: Recorded cues of synthetic clips, as JSON lines.
        max_unreadable_fraction: Fraction of clips that may be lost.
        val_fraction: Fraction of the training clips, chosen by name, that validates when no file is given.
        seen_labels: Label files that the initial policy was trained on; no evaluation clip may be in them.
        questions: Kinds of question that training draws from; see :mod:`affectgpt_r1.data.layouts.annotations`.
        valence_range: See :class:`~affectgpt_r1.data.layouts.annotations.QuestionSet`.
        supervised_labels: Label file of the supervised part of a mixed loss; None takes the training clips.
        supervised_reasons: Reasons of these clips.
        manifests: Folder of what :meth:`setup` keeps of a large data folder; None keeps nothing.
        recheck: Read label files and look at media although what an earlier start found is kept.

    Raises:
        ConfigError: A value is unknown.
    """

    def __init__(
        self,
        root: str,
        train_labels: str,
        *,
        train_reasons: str | None = None,
        validation_labels: str | None = None,
        test_labels: str | None = None,
        subtitles: str | None = "subtitle_chieng.csv",
        modalities: Sequence[Modality] = MODALITIES,
        visual: Visual = "face",
        num_frames: int = 8,
        image_size: int = 224,
        channel_order: ChannelOrder = "bgr",
        num_windows: int = 8,
        window_seconds: float = 2.0,
        decoder: str = "auto",
        windows: WindowRule = "even",
        frame_resize: FrameResize = "crop",
        frame_indices: FrameIndices = "floor",
        face_resize: FaceResize = "antialias",
        empty_subtitle: Literal["omit", "keep"] = "omit",
        batch_size: int = 8,
        eval_batch_size: int = 50,
        num_workers: int = 0,
        seed: int = 0,
        subset: int | None = None,
        modality_dropout: float = 0.0,
        feature_store: str | None = None,
        cues_file: str | None = None,
        max_unreadable_fraction: float = 0.02,
        val_fraction: float = 0.1,
        seen_labels: Sequence[str] = (),
        questions: Sequence[str] = (),
        valence_range: Sequence[float] | None = None,
        supervised_labels: str | None = None,
        supervised_reasons: str | None = None,
        manifests: str | None = None,
        recheck: bool = False,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        subtitles = subtitles if "text" in modalities else None
        self.files = SplitFiles(
            *(train_labels, train_reasons, validation_labels, test_labels, subtitles, cues_file),
            supervised_labels=supervised_labels,
            supervised_reasons=supervised_reasons,
        )
        self.media = MediaSettings(
            modalities=tuple(modalities),
            visual=visual,
            num_frames=num_frames,
            image_size=image_size,
            channel_order=channel_order,
            num_windows=num_windows,
            window_seconds=window_seconds,
            decoder=decoder,
            windows=windows,
            frame_resize=frame_resize,
            frame_indices=frame_indices,
            face_resize=face_resize,
            empty_subtitle=empty_subtitle,
        )
        if any(isinstance(size, int) and size < 1 for size in (batch_size, eval_batch_size)):
            raise ConfigError("data.batch_size and data.eval_batch_size must be at least 1")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers = num_workers
        self.seed, self.subset = seed, subset
        self.modality_dropout = modality_dropout
        self.feature_store = feature_store
        self.max_unreadable_fraction = max_unreadable_fraction
        self.val_fraction = val_fraction
        self.seen_labels = tuple(seen_labels)
        self.questions = QuestionSet(tuple(questions), valence_range)
        self.manifests, self.recheck = manifests, recheck
        self._forget()

    def _forget(self) -> None:
        self.features: FeatureStore | None = None
        self.splits = Splits([], [], [])
        self._media_states: dict[str, MediaState] = {}
        self._cues: dict[str, dict[str, float]] | None = None
        self._train_sampler: GenerationBatchSampler | None = None
        self._schedule = GenerationSchedule()
        self._supervised_size = 0
        self._resume = (-1, 0)

    def setup(self, stage: str | None = None) -> None:
        """Read every label file and check splits and media, whatever the stage.

        Raises:
            DataError: A file, a split or a clip's media cannot be used; says which row.
        """
        if not self.splits.train:
            with no_garbage_collection():  # of a million tuples
                self.splits = self._read_kept() if self._is_kept() else self.read(refuse)

    def _is_kept(self) -> bool:
        """Return whether what :meth:`read` returns is kept: of a small folder it is read in less than a second."""
        labels = self.root / self.files.train_labels
        if self.manifests is None or self.files.cues or self.files.supervised_labels or not labels.is_file():
            return False
        with labels.open("rb") as file:
            return sum(1 for _ in file) > KEPT_FROM

    def _read_kept(self) -> Splits:
        """Return what an earlier start, or another process of this run, kept; read and keep it where there is none."""
        folder = Path(str(self.manifests)) / self._manifest_digest()
        kept = None if self.recheck else read_packed_splits(folder)
        if kept is not None:
            log.info(
                "Labels and media are as an earlier start found them, in %s; data.recheck=true looks again", folder
            )
            return Splits(*kept)
        with clear_write_errors(folder, ELSEWHERE):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # one process reads, and the others wait for what it keeps
            kept = None if self.recheck else read_packed_splits(folder)
            if kept is None:
                splits = self.read(refuse)
                pack_splits(folder, splits[:3], self.media_identities(splits.rows()), ELSEWHERE)
                kept = read_packed_splits(folder)
                assert kept is not None
                self._media_states = {}
        return Splits(*kept)

    def _manifest_digest(self) -> str:
        places = {place.partition("/")[0] for place in (*VIDEO_PLACES, *AUDIO_PLACES, *FACE_PLACES)}
        dates = [(place, path.stat().st_mtime_ns) for place in sorted(places) if (path := self.root / place).is_dir()]
        seen = [[file, content_digest(self.root / file)] for file in self.seen_labels]
        read_with = [self.val_fraction, self.subset, self.questions.kinds, self.questions.valence_range]
        media = [self.media.modalities, self.media.visual]
        identity = [FORMAT, str(self.root.resolve()), self.files.digest(self.root), dates, seen, read_with, media]
        return hashlib.sha256(json.dumps(identity, default=list).encode()).hexdigest()[:16]

    def read(self, on_fault: OnFault) -> Splits:
        """Read label files and index media as :meth:`setup` does, and return the rows whose media are all present.

        Where ``on_fault`` returns, the faulty row or file is left out and what follows is checked as well; the data
        module cannot train then.
        """
        splits = read_splits(
            self.root,
            self.files,
            val_fraction=self.val_fraction,
            subset=self.subset,
            questions=self.questions,
            on_fault=on_fault,
        )
        check_unseen(self.root, self.seen_labels, [*splits.validation, *splits.test], on_fault)
        self._media_states = index_media(splits.rows(), self.root, self.media.modalities, self.media.visual, on_fault)
        splits = Splits(*([row for row in rows if row.name in self._media_states] for rows in splits))
        check_content(
            self.root,
            [*splits.train, *splits.supervised],
            [*splits.validation, *splits.test],
            self._media_states,
            on_fault,
        )
        if self.files.cues:
            try:
                self._cues = read_split_cues(self.root / self.files.cues, splits)
            except DataError as fault:
                on_fault(fault)
        if self.files.subtitles is None and "text" in self.media.modalities and splits.train:
            # `predict` reads .srt files next to a clip; a data folder does not. The first clip tells of all.
            srt = video_file(self.root, splits.train[0].name).with_suffix(".srt")
            if srt.exists():
                log.warning(
                    "%s is not read: subtitles come from data.subtitles, which is null, so every clip is silent", srt
                )
        return splits

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled training batches; unreadable clips are resampled."""
        dataset, clips = self._training_dataset(self.splits.train), self._sampler(self.splits.train, train=True)
        if self._supervised_size:
            return self._mixed_dataloader(dataset, clips)
        self._train_sampler = GenerationBatchSampler(clips, self.batch_size, self._schedule)
        self._train_sampler.start_at(*self._resume)
        return self._loader(dataset, batch_sampler=self._train_sampler)

    def _mixed_dataloader(self, dataset: ClipDataset, clips: ClipSampler) -> DataLoader[Any]:
        supervised = self.splits.supervised or self.splits.train
        self._train_sampler = MixedBatchSampler(
            clips,
            self.batch_size,
            self._schedule,
            num_supervised=len(supervised),
            supervised_size=self._supervised_size,
            seed=self.seed,
        )
        self._train_sampler.start_at(*self._resume)
        mixed = MixedDataset(dataset, self._training_dataset(supervised))
        return self._loader(mixed, batch_sampler=self._train_sampler, collate_fn=collate_mixed)

    def _training_dataset(self, rows: Sequence[ManifestRow]) -> ClipDataset:
        return self._dataset(
            rows,
            modality_dropout=self.modality_dropout,
            features=self.features,
            on_unreadable="resample",
            questions=self.questions.kinds,
        )

    def num_train_batches(self, num_processes: int, schedule: GenerationSchedule | None = None) -> int:
        """Return the training batches per epoch and process, before a Trainer is attached.

        ``schedule`` says how training steps share a generation batch; None is one step per batch.
        """
        clips = ClipSampler(len(self.splits.train), seed=self.seed, shuffle=True, num_replicas=num_processes)
        return len(GenerationBatchSampler(clips, self.batch_size, schedule or GenerationSchedule()))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation batches of :meth:`evaluation_loader`."""
        return self.evaluation_loader(self.splits.validation)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test batches of :meth:`evaluation_loader`."""
        return self.evaluation_loader(self.splits.test)

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, dataloader_idx: int) -> ClipBatch:
        """Move a batch; Lightning cannot move frozen dataclasses itself."""
        return batch_to_device(batch, device)

    def resume_position(self, epoch: int, batch: int) -> None:
        """Let the training epoch ``epoch`` start at its batch ``batch``; later epochs are complete."""
        self._resume = (epoch, batch)
        if self._train_sampler is not None:
            self._train_sampler.start_at(epoch, batch)

    def use_schedule(self, schedule: GenerationSchedule) -> None:
        """Let each generation batch be followed by the empty batches of the steps that reuse it."""
        self._schedule = schedule

    def use_supervised(self, size: int) -> None:
        """Let each training batch bring so many labelled clips in ``supervised`` as well."""
        self._supervised_size = size

    def open_feature_store(self, encoder_digest: str) -> FeatureStore:
        """Open the store of these encoders, media settings and data folder; new loaders read it.

        Raises:
            ConfigError: ``feature_store`` is not set.
        """
        if self.feature_store is None:
            raise ConfigError("data.feature_store is not set; give a folder for frozen-encoder outputs")
        media = dataclasses.asdict(self.media)
        del media["empty_subtitle"]  # of the prompt alone
        if media["frame_indices"] == "floor":  # stores of before there was a choice stay valid
            del media["frame_indices"]
        identity = [encoder_digest, media, str(self.root.resolve())]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.features = FeatureStore(Path(self.feature_store) / digest[:16])
        return self.features

    def rows_without_features(self, store: FeatureStore, part: slice = slice(None)) -> list[ManifestRow]:
        """Return those of all splits' rows in ``part`` whose features are not stored, or are of other media."""
        rows = self.splits.rows()[part]
        if isinstance(rows, PackedRows):
            names, identities = rows.names(), rows.identities()
        else:
            names = [row.name for row in rows]
            identities = list(self.media_identities(rows).values())
        missing = store.lacking(names, identities)
        unreadable = store.unreadable([names[at] for at in missing], [identities[at] for at in missing])
        lacking = [rows[at] for at in missing if names[at] not in unreadable]
        if store.damaged:
            log.warning(
                "%d of %d stored features in %s are damaged, and their clips are encoded again: %s",
                *(len(store.damaged), len(rows), store.folder, listing(sorted(store.damaged))),
            )
        return lacking

    @property
    def media_states(self) -> dict[str, MediaState]:
        """Media files of every clip on setup, by clip name."""
        return self._media_states

    def media_identities(self, rows: Sequence[ManifestRow]) -> dict[str, str]:
        """Return the identity of every clip's media files when they were looked at, by clip name."""
        if isinstance(self.splits.train, PackedRows) and not self._media_states:
            every = self.splits.rows()
            assert isinstance(every, PackedRows)
            wanted = {row.name for row in rows}
            return {
                name: media for name, media in zip(every.names(), every.identities(), strict=True) if name in wanted
            }
        return {row.name: self._media_states[row.name].identity for row in rows}

    def media_loader(self, rows: Sequence[ManifestRow]) -> DataLoader[Any]:
        """Return the batches of :meth:`evaluation_loader` with decoded media, also where features are stored."""
        return self._ordered_loader(rows, self._dataset(rows))

    def digest(self) -> str:
        """Return the SHA-256 of all label files: which data a run saw."""
        return self.files.digest(self.root)

    def file_digests(self) -> dict[str, str]:
        """Return the SHA-256 of each label file, by its field of :class:`~affectgpt_r1.data.splits.SplitFiles`."""
        return self.files.digests(self.root)

    def label_files(self) -> list[LabelFile]:
        """Return the label file of each split that has clips; a validation part of the training file is that file."""
        digests, files = self.file_digests(), self.files
        found = []
        for split, rows in zip(Splits._fields, self.splits, strict=True):
            field = f"{split}_labels" if f"{split}_labels" in digests else "train_labels"
            if rows:
                found.append(LabelFile(split, self.root / getattr(files, field), digests[field], len(rows)))
        return found

    def evaluation_loader(self, rows: Sequence[ManifestRow]) -> DataLoader[Any]:
        """Return batches of ``rows`` in order; unreadable clips are left out and listed."""
        return self._ordered_loader(rows, self._dataset(rows, features=self.features))

    def _ordered_loader(self, rows: Sequence[ManifestRow], dataset: ClipDataset) -> DataLoader[Any]:
        sampler = self._sampler(rows, train=False)
        return self._loader(dataset, sampler=sampler, batch_size=self.eval_batch_size)

    def _dataset(self, rows: Sequence[ManifestRow], **options: Any) -> ClipDataset:
        return ClipDataset(rows, self.root, self.media, seed=self.seed, cues=self._cues, **options)

    def _sampler(self, rows: Sequence[ManifestRow], *, train: bool) -> ClipSampler:
        return ClipSampler(
            len(rows),
            seed=self.seed,
            shuffle=train,
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
            even=train,
        )

    def _loader(self, dataset: Dataset[Any], **batching: Any) -> DataLoader[Any]:
        has_workers = self.num_workers > 0
        return DataLoader(
            dataset,
            **{"collate_fn": collate, **batching},
            num_workers=self.num_workers,
            timeout=WORKER_TIMEOUT_SECONDS if has_workers else 0,
            persistent_workers=has_workers,
            # Its own generator: an iterator that drew from the global one would change a resumed run.
            generator=torch.Generator().manual_seed(self.seed),
        )


class OVMERDataModule(ClipDataModule):
    """Human-labelled open-vocabulary clips (OV-MERD); reasons where ``train_reasons`` names them."""

    def __init__(self, root: str, train_labels: str = "track2_train_ovmerd.csv", **options: Any) -> None:
        super().__init__(root, train_labels, **options)


class MERCaptionDataModule(ClipDataModule):
    """Machine-captioned clips with reasons (MER-Caption+)."""

    def __init__(
        self,
        root: str,
        train_labels: str = "track2_train_mercaptionplus.csv",
        train_reasons: str | None = "track3_train_mercaptionplus.csv",
        **options: Any,
    ) -> None:
        super().__init__(root, train_labels, train_reasons=train_reasons, **options)
