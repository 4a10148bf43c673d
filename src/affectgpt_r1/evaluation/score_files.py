"""Score a file of predictions against a file of targets, or write it as a challenge's submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from affectgpt_r1.data.leakage import known_overlap, leaked_names
from affectgpt_r1.emotion.chat_client import Chat
from affectgpt_r1.emotion.chat_extraction import text_extractor
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.corpus_report import corpus_report
from affectgpt_r1.metrics.label_notes import label_notes, unmapped_words
from affectgpt_r1.metrics.prediction_files import align, read_named_sets, write_submission


def score_files(
    predictions: Path,
    targets: Path,
    *,
    lexicon: str = "bundled",
    chat: Chat | None = None,
    subset: bool = False,
    no_match: Literal["zero", "nan"] = "zero",
    train: Sequence[Path] = (),
    columns: Mapping[str, str] | None = None,
    target_columns: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Score the predictions of a file.

    Args:
        predictions: See :func:`~affectgpt_r1.metrics.prediction_files.read_named_sets`.
        targets: The same formats, the same names.
        lexicon: Name or folder.
        chat: Extracts the labels of free text; None searches for the lexicon's words.
        subset: Let targets without a prediction pass.
        no_match: F1 where nothing matches.
        train: Label files of training, in which scored names are looked for.
        columns: What ``name``, ``openset`` and ``reason`` are called in ``predictions``.
        target_columns: The same in ``targets``.

    Returns:
        :func:`~affectgpt_r1.metrics.corpus_report.corpus_report` with ``negated`` spans by clip, the commonest
        ``unmapped_words`` with their counts and, given ``train``, ``leakage``; and what may be wrong, a line each.

    Raises:
        AffectGPTError: A file, the lexicon or the pairing of names is at fault.
    """
    words = load_lexicon(lexicon)
    extract = text_extractor(words, chat)
    answered, expected = align(
        read_named_sets(predictions, extract, columns), read_named_sets(targets, extract, target_columns), subset=subset
    )
    report = corpus_report(answered.labels, expected.labels, words, no_match)
    negated = {name: list(spans) for name, spans in zip(answered.names, answered.negated, strict=True) if spans}
    report["negated"] = negated
    report["unmapped_words"] = unmapped_words(answered.labels, words).commonest
    notes = [*answered.notes, *expected.notes]
    notes += label_notes(answered.labels, words, "predictions") + label_notes(expected.labels, words, "targets")
    if not any(word in words for labels in expected.labels for word in labels):
        notes.append(f"Nothing counts: no label of {targets} is in the {words.name} lexicon, which is English.")
    if train:
        known = known_overlap(path.name for path in (*train, targets))
        names = {str(path): leaked_names(path, expected.names) for path in train}
        report["leakage"] = {"names": names, "known": known}
        notes += [f"Beware: {known}."] if known else []
        notes += [_leakage_line(file, leaked, len(expected.names)) for file, leaked in names.items()]
    if negated:
        notes.append(f"{sum(map(len, negated.values()))} negated spans were skipped, as in {next(iter(negated))}.")
    return report, notes


def _leakage_line(file: str, leaked: Sequence[str], num_scored: int) -> str:
    such = f", such as {leaked[0]}: the scores are not of unseen clips" if leaked else ""
    return f"Leakage: {len(leaked)} of {num_scored} scored names are in {file}{such}."


def write_submission_file(
    predictions: Path, output: Path, lexicon: str, chat: Chat | None, columns: Mapping[str, str] | None = None
) -> list[str]:
    """Write predictions as a challenge's ``-openset.npz``, and say in lines what was read and written.

    Raises:
        AffectGPTError: A file or the lexicon is at fault.
    """
    answered = read_named_sets(predictions, text_extractor(load_lexicon(lexicon), chat), columns)
    write_submission(output, answered.names, answered.labels)
    blank = sum(not words for words in answered.labels)
    return [*answered.notes, f"{output}: {len(answered.names)} clips, {blank} of them without a label"]
