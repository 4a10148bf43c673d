"""Fill a data module's feature store, by all processes of a run together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from affectgpt_r1.data.feature_store import store_features
from affectgpt_r1.data.unreadable import UnreadableClips
from affectgpt_r1.distributed.collectives import split_across_ranks
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import ClipBatch

if TYPE_CHECKING:  # it imports Lightning, which takes `predict` seconds
    from affectgpt_r1.data.datamodule import ClipDataModule

log = logging.getLogger(__name__)

# Of a batch on the CPU: {"video": (B, F, D_video), "audio": (B, W, D_audio)}.
Encode = Callable[[ClipBatch], Mapping[str, Tensor]]


def fill_feature_store(datamodule: ClipDataModule, prepare: Callable[[int], Encode]) -> UnreadableClips:
    """Encode every clip that the opened feature store lacks; after an interruption, call it again to continue.

    Each process encodes a part, clip by clip, and returns when all have finished, with its own unreadable clips.

    Args:
        datamodule: Set up, with its feature store opened.
        prepare: Called with how many clips this process encodes, if any.

    Raises:
        ConfigError: No feature store is open.
        DataError: More than ``max_unreadable_fraction`` of all clips could not be read.
    """
    store = datamodule.features
    if store is None:
        raise ConfigError("no feature store is open; call open_feature_store first")
    own = UnreadableClips()

    def encode_part(part: slice) -> UnreadableClips:
        if lacking := datamodule.rows_without_features(store, part):
            media = datamodule.media_identities(lacking)
            store.reserve(len(lacking))
            rows = [row for row in lacking if not store.take_over(row.name, media[row.name])]
            if len(rows) < len(lacking):
                log.info("%d features of an earlier version were copied", len(lacking) - len(rows))
            if rows:
                own.merge([store_features(store, datamodule.media_loader(rows), prepare(len(rows)), media)])
            store.finish()
        return own

    total = UnreadableClips()
    total.merge(split_across_ranks(store.folder, encode_part))
    total.raise_if_over(datamodule.max_unreadable_fraction)
    return own
