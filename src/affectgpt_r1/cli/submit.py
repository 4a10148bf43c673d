"""Write a challenge submission: ``affectgpt-r1 submit --predictions P --output NAME-openset.npz``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.cli.command import run_command
from affectgpt_r1.cli.scoring import add_chat_options, chat_from
from affectgpt_r1.io.clean_text import printable


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: With code 2 after bad input, which is named in one line.
    """
    print(printable(run_command(_parser(), submit, arguments)))


def submit(options: argparse.Namespace) -> str:
    """Write the file.

    Args:
        options: See ``--help``.

    Returns:
        What was written.

    Raises:
        AffectGPTError: If a file or the lexicon is at fault.
    """
    from affectgpt_r1.emotion.chat_extraction import text_extractor
    from affectgpt_r1.emotion.lexicon import load_lexicon
    from affectgpt_r1.metrics.prediction_files import read_named_sets, write_submission

    extract = text_extractor(load_lexicon(options.lexicon), chat_from(options))
    predictions = read_named_sets(options.predictions, extract)
    write_submission(options.output, predictions.names, predictions.labels)
    blank = sum(not words for words in predictions.labels)
    return f"{options.output}: {len(predictions.names)} clips, {blank} of them without a label"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 submit", description="Write predictions as a challenge's -openset.npz."
    )
    parser.add_argument("--predictions", type=Path, required=True, help="as for `affectgpt-r1 score`")
    parser.add_argument("--output", type=Path, required=True, help="must end in -openset.npz")
    parser.add_argument("--lexicon", default="bundled", help="whose forms are looked for in free text (%(default)s)")
    add_chat_options(parser)
    return parser


if __name__ == "__main__":
    main()
