"""Score a file of predictions against a file of targets, or write it as a challenge's submission."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from affectgpt_r1 import __version__
from affectgpt_r1.emotion.chat_extraction import text_extractor
from affectgpt_r1.emotion.extraction import Extraction
from affectgpt_r1.emotion.lexicon import Lexicon, load_lexicon
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.metrics.corpus_report import corpus_report
from affectgpt_r1.metrics.functional.grouped_sets import by_groups, by_lexicon, grouped_scores
from affectgpt_r1.metrics.functional.recognition import six_class_scores
from affectgpt_r1.metrics.functional.wheel_f1 import NoTarget, ZeroDivision
from affectgpt_r1.metrics.grouping_files import read_groupings
from affectgpt_r1.metrics.label_notes import label_notes, unmapped_words
from affectgpt_r1.metrics.prediction_files import NamedSets, align, read_named_sets, write_submission
from affectgpt_r1.types import EmotionSet

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat

Labels: TypeAlias = str | Sequence[str]
"""The labels of a clip: words, or one text with commas between them."""


class ScoredFiles(NamedTuple):
    """What :func:`score_files` read, in the order of the targets, and found."""

    report: dict[str, Any]
    notes: list[str]  # what a reader of the scores should know, also in the report
    answered: NamedSets
    expected: NamedSets
    lexicon: Lexicon


def score(
    predictions: str | Path | Mapping[str, Labels] | Sequence[Labels],
    targets: str | Path | Mapping[str, Labels] | Sequence[Labels],
    lexicon: str | Path = "bundled",
    *,
    subset: bool = False,
    no_match: ZeroDivision = "zero",
    no_target: NoTarget = "leave",
) -> dict[str, Any]:
    """Score predictions with the emotion wheels, as ``affectgpt-r1 score`` does.

    Args:
        predictions: A file that ``affectgpt-r1 score`` reads, or labels by clip name, or the labels of each clip.
        targets: The same, of the same clips.
        lexicon: ``bundled``, ``mer2025``, ``mer2026`` or a folder.
        subset: Let targets without a prediction pass.
        no_match: F1 where nothing matches: 0 as in MER2026 or NaN as in MER2025.
        no_target: A wheel on which no target counts: left out of the mean, 0 as in MER2026 or NaN as in MER2025.

    Returns:
        The ``report`` of :func:`score_files`: fractions, with intervals and constant baselines; ``notes`` say what may
        be wrong with the input.

    Raises:
        AffectGPTError: A file, the lexicon or the pairing of clips is at fault.

    >>> report = score({"a": "happy, calm", "b": ["sad"]}, {"a": ["joyful"], "b": ["angry"]})
    >>> report["samples"], round(report["scores"]["mean_level1"]["f1"], 3)
    (2, 0.4)
    """
    words = load_lexicon(lexicon)
    extract = text_extractor(words, None)
    sets = [_named_sets(given, extract, what) for given, what in ((predictions, "predictions"), (targets, "targets"))]
    answered, expected = align(*sets, subset=subset)
    return _report(answered, expected, words, no_match, no_target)


def _named_sets(
    given: str | Path | Mapping[str, Labels] | Sequence[Labels], extract: Callable[[str], Extraction], what: str
) -> NamedSets:
    if isinstance(given, str | Path):
        return read_named_sets(Path(given), extract)
    by_name = given if isinstance(given, Mapping) else {f"clip {row}": labels for row, labels in enumerate(given)}
    if not by_name:
        raise DataError(f"{what}: there are no clips")
    labels = [_labels(labels, f"{what}, {name}") for name, labels in by_name.items()]
    return NamedSets(list(by_name), labels, [()] * len(labels))


def _labels(given: Labels, place: str) -> EmotionSet:
    if not isinstance(given, Sequence) or not all(isinstance(word, str) for word in given):
        raise DataError(f"{place}: labels are text or a list of texts, not {given!r:.80}")
    return parse_labels(given)


def score_files(
    predictions: Path,
    targets: Path,
    *,
    lexicon: str = "bundled",
    chat: Chat | None = None,
    subset: bool = False,
    no_match: ZeroDivision = "zero",
    no_target: NoTarget = "leave",
    columns: Mapping[str, str] | None = None,
    target_columns: Mapping[str, str] | None = None,
    groupings: Path | None = None,
) -> ScoredFiles:
    """Score the predictions of a file.

    Args:
        predictions: See :func:`~affectgpt_r1.metrics.prediction_files.read_named_sets`.
        targets: The same formats, the same names.
        lexicon: Name or folder.
        chat: Extracts the labels of free text; None searches for the lexicon's words.
        subset: Let targets without a prediction pass.
        no_match: F1 where nothing matches.
        no_target: A wheel on which no target counts.
        columns: What ``name``, ``openset`` and ``reason`` are called in ``predictions``.
        target_columns: The same in ``targets``.
        groupings: MER2024's cached groups of synonyms; see :func:`~.grouping_files.read_groupings`.

    Returns:
        :func:`~affectgpt_r1.metrics.corpus_report.corpus_report` with ``negated`` spans by clip, the commonest
        ``unmapped_words`` with their counts, ``notes``, and ``mer2024``: ``accuracy_s``, ``recall_s`` and their
        ``mean`` by the lexicon's synonyms (``lexicon``) and, if given, by ``groupings``; ``track1``, of
        :func:`~.recognition.six_class_scores`; and what it is of.

    Raises:
        AffectGPTError: A file, the lexicon or the pairing of names is at fault.
    """
    words = load_lexicon(lexicon)
    extract = text_extractor(words, chat)
    answered, expected = align(
        read_named_sets(predictions, extract, columns), read_named_sets(targets, extract, target_columns), subset=subset
    )
    report = _report(answered, expected, words, no_match, no_target)
    if groupings is not None:
        groups = list(map(by_groups, read_groupings(groupings, expected.names)))
        report["mer2024"]["groupings"] = grouped_scores(answered.labels, expected.labels, groups)._asdict()
    return ScoredFiles(report, report["notes"], answered, expected, words)


def _report(
    answered: NamedSets, expected: NamedSets, lexicon: Lexicon, no_match: ZeroDivision, no_target: NoTarget
) -> dict[str, Any]:
    report = corpus_report(answered.labels, expected.labels, lexicon, no_match, no_target)
    negated = {name: list(spans) for name, spans in zip(answered.names, answered.negated, strict=True) if spans}
    notes = [*answered.notes, *expected.notes]
    notes += label_notes(answered.labels, lexicon, "predictions") + label_notes(expected.labels, lexicon, "targets")
    if not any(word in lexicon for labels in expected.labels for word in labels):
        notes.append(f"Nothing counts: no label of the targets is in the {lexicon.name} lexicon, which is English.")
    elif no_target == "leave" and (empty := [wheel for wheel, number in report["counted"].items() if not number]):
        notes.append(empty_wheel_note(f"on {', '.join(empty)}"))
    if negated:
        spans = counted(sum(map(len, negated.values())), "negated span was", "negated spans were")
        notes.append(f"{spans} skipped, as in {next(iter(negated))}.")
    unmapped = unmapped_words(answered.labels, lexicon).commonest
    synonyms = [by_lexicon(lexicon)] * len(expected.labels)
    mer2024 = {"lexicon": grouped_scores(answered.labels, expected.labels, synonyms)._asdict()}
    return report | {
        "negated": negated,
        "unmapped_words": unmapped,
        "notes": notes,
        "mer2024": mer2024,
        "track1": six_class_scores(answered.labels, expected.labels),
    }


def provenance(lexicon: Lexicon) -> dict[str, str]:
    """Return what figures depend on: the package's ``version``, and the ``lexicon_digest`` of all words' clusters."""
    return {"version": __version__, "lexicon_digest": lexicon.digest}


def empty_wheel_note(where: str) -> str:
    """Say that the mean deviates from the official scorers'."""
    return (
        f"No target counts {where}: left out of the mean over the wheels, which is ours; the official scorers have 0 "
        "(2026: --no-target zero) or NaN (2025: --no-target nan) there."
    )


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
    return [
        *answered.notes,
        f"{output}: {counted(len(answered.names), 'clip', 'clips')}, {blank} of them without a label",
    ]
