"""What LaTeX prints of escaped text, by a table of our own that shares nothing with the code that escapes."""

import re

# As in "The Comprehensive LaTeX Symbol List": the ten specials, and the characters that the default encoding lacks.
NAMED = {
    "backslash": "\\",
    "asciitilde": "~",
    "asciicircum": "^",
    "less": "<",
    "greater": ">",
    "bar": "|",
    "asciigrave": "`",
}
MATHS = {r"\pm": "±", r"\le": "≤", "-": "−"}
LIGATURES = {"``": "“", "''": "”", "---": "—", "--": "–", ",,": "„", "`": "\u2018", "'": "’", "{}": ""}
TOKEN = re.compile(
    r"\\text([a-z]+)\{\}|\\([&%$#_{}])|\$([^$]*)\$|(``|''|---?|,,|`|'|\{\})|([^\\&%$#_{}~^<>|])", re.DOTALL
)


def printed_by_latex(source: str) -> str:
    """Return the text that LaTeX sets; an AssertionError where ``source`` does anything else."""
    text, position = "", 0
    while position < len(source):
        token = TOKEN.match(source, position)
        assert token is not None, f"LaTeX would take this as a command: {source[position : position + 40]!r}"
        name, special, maths, ligature, plain = token.groups()
        text += NAMED[name] if name else special or (MATHS[maths] if maths else LIGATURES.get(ligature, plain))
        position = token.end()
    return text
