"""A small byte-level BPE tokenizer built from local text, for models that are trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from affectgpt_r1.io.files import replacing
from affectgpt_r1.policy.prompts import BOS_TOKEN, EOS_TOKEN, MEDIA_TOKENS, TURN


def build_tokenizer(texts: Iterable[str], phrases: Sequence[str], vocab_size: int, path: Path) -> Tokenizer:
    """Train a tokenizer and write it as ``tokenizer.json``.

    Byte-level, so that every string is encoded and decoded without loss. ``vocab_size`` does not count the phrases.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN, BOS_TOKEN, *MEDIA_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # One token per fixed phrase: a model of a million parameters learns nothing from their wording, and prompts get
    # several times shorter.
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in (TURN, *phrases)])
    with replacing(path, elsewhere="choose another paths.data=") as partial:
        tokenizer.save(str(partial))
    return tokenizer
