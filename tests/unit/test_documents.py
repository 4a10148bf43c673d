"""README and docs: blocks say what they are, links lead somewhere, and both languages print the same figures."""

import doctest
import re

import pytest

from helpers.documents import DOCUMENTS, REPOSITORY, code_blocks

BLOCKS = [block for document in DOCUMENTS for block in code_blocks(document)]
REASONS = {
    *("needs a GPU and gated data", "needs gated data", "needs a download", "needs the answers of two policies"),
    "needs a trained policy",
}


def test_every_document_is_listed():
    found = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").glob("*.md")}

    assert found == {document for document in DOCUMENTS if document.startswith("docs/")}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.document}:{block.line}")
def test_blocks_name_their_language_and_commands_can_be_pasted(block):
    assert block.language in {"bash", "bibtex", "python", "text", "yaml"}
    assert block.mark in {"", *REASONS}
    if block.language == "bash" and not block.mark:
        assert not re.search(r"…|\.\.\.|<\w+>", block.text)
        assert all(command.split()[0] in {"affectgpt-r1", "make"} for command in block.commands)


def _anchors(document):
    headings = re.findall(r"^#+ (.+)$", (REPOSITORY / document).read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, ".github/SECURITY.md"])
def test_links_lead_to_files_and_headings(document):
    content = (REPOSITORY / document).read_text("utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", content)
    local = [target for pair in targets for target in pair if target and not target.startswith("https://")]
    broken = []
    for target in local:
        path, _, anchor = target.partition("#")
        place = (REPOSITORY / document).parent / path if path else REPOSITORY / document
        if not place.exists() or (anchor and anchor not in _anchors(place.resolve().relative_to(REPOSITORY))):
            broken.append(target)

    assert broken == []


def test_both_languages_print_the_same_figures():
    rows = [
        re.findall(r"^\| (?!-).*$", (REPOSITORY / name).read_text("utf-8"), flags=re.MULTILINE)[1:6]
        for name in ("README.md", "README.zh-CN.md")
    ]
    english, chinese = ([row.split("|")[2:] for row in table] for table in rows)

    assert len(english) == 5
    assert english == chinese


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if ">>>" in block.text], ids=lambda block: f"{block.document}:{block.line}"
)
def test_python_examples_print_what_is_shown(block):
    example = doctest.DocTestParser().get_doctest(block.text, {}, block.document, None, block.line)

    assert doctest.DocTestRunner().run(example) == doctest.TestResults(failed=0, attempted=len(example.examples))
    assert len(example.examples) > 1
