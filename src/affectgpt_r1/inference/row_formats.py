"""Write the rows of ``predict``: JSON lines for programs, CSV for spreadsheets, a table for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from affectgpt_r1.io.clean_text import json_line, printable

COLUMNS = (
    *("name", "file", "person", "faces", "start", "end", "openset", "labels", "confidence", "clusters", "polarity"),
    *("reasoning", "modalities", "notes", "well_formed", "answered", "synthetic", "checkpoint", "digest"),
)
NAME_WIDTH = 28
OTHERS = 0.25  # of the samples name a word that the answer does not: it is shown

Row = Mapping[str, Any]


def formatter(kind: str, encoding: str = "utf-8") -> Callable[[Row], str]:
    """Return what turns each row into lines of ``jsonl``, ``csv`` or ``table``; the first has a header before it."""
    write = {"jsonl": _json, "csv": _csv, "table": _table}[kind]
    header = {"jsonl": "", "csv": _csv_line(COLUMNS), "table": f"{'file':{NAME_WIDTH}}  emotions\n"}[kind]

    def format_row(row: Row) -> str:
        nonlocal header
        lines, header = header + write(row), ""
        try:
            lines.encode(encoding)
        except UnicodeEncodeError:  # a file name that is not UTF-8, or a terminal that shows none
            if kind == "jsonl":
                return json.dumps(row) + "\n"
            return lines.encode(encoding, "backslashreplace").decode(encoding)
        return lines

    return format_row


def _json(row: Row) -> str:
    return json_line(row)


def _csv(row: Row) -> str:
    policy, sure = row.get("policy", {}), _fractions(row)
    flat = {
        **row,
        "clusters": row.get("clusters", {}).get("wheel1"),
        "confidence": [f"{label} {fraction:.2f}" for label, fraction in sure.items() if label in row["labels"]],
        "notes": "; ".join(row["notes"]),
        "checkpoint": policy.get("checkpoint"),
        "digest": policy.get("digest"),
    }
    cells = (flat.get(name) for name in COLUMNS)
    return _csv_line([", ".join(cell) if isinstance(cell, list) else cell for cell in cells])


def _csv_line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow("" if cell is None else cell for cell in cells)
    return line.getvalue()


def _table(row: Row) -> str:
    sure = _fractions(row)
    words = [f"{label} {sure[label]:.0%}" if sure else label for label in row["labels"]]
    said = ", ".join(words) + (f"  ({row['polarity']})" if words else "-")
    lines = [f"reasoning: {row['reasoning']}"] if row.get("reasoning") else []
    others = [
        f"{word} {fraction:.0%}" for word, fraction in sure.items() if fraction > OTHERS and word not in row["labels"]
    ]
    lines += [f"may also be: {', '.join(others)}"] if others else []
    for modality, drop in row.get("contributions", {}).items():
        change = f"{abs(drop['per_token']):.2f} nats per token {'less' if drop['per_token'] >= 0 else 'more'} likely"
        lines.append(f"without {modality}: {', '.join(drop['labels_without']) or 'nothing'}; the answer is {change}")
    lines += [*row["notes"], *filter(None, [row.get("synthetic")])]
    first = f"{printable(row['name']):{NAME_WIDTH}}  {printable(said)}"
    return "\n".join([first, *(f"{'':{NAME_WIDTH}}  - {printable(line)}" for line in lines)]) + "\n"


def _fractions(row: Row) -> dict[str, float]:
    """Return in which fraction of the samples each word is named, the answer's as it spells them; {} if unknown."""
    sure: dict[str, float] = row.get("confidence", {}).get("labels", {})
    if not row.get("confidence"):
        return {}
    spelled = {label.strip().lower(): label for label in row["labels"]}
    return {label: sure.get(word, 0.0) for word, label in spelled.items()} | {
        word: fraction for word, fraction in sure.items() if word not in spelled
    }
