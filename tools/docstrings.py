"""Griffe extension: our docstrings as the site's reader knows them.

`Example:` is a section of doctests, and an indented formula under a line of text is a block of its
own.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(Args|Returns|Raises|Warns|Yields|Examples?|Source|Attributes):", re.M)


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is found."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called for every module, class and function."""
        if obj.docstring is not None:
            obj.docstring.value = _rewritten(obj.docstring.value)


def _rewritten(text: str) -> str:
    text = re.sub(r"^Example:\s*$", "Examples:", text, flags=re.MULTILINE)
    found = _SECTION.search(text)
    at = found.start() if found else len(text)
    return _with_blocks(text[:at]) + text[at:]


def _with_blocks(prose: str) -> str:
    lines: list[str] = []
    for line in prose.split("\n"):
        is_block = line.startswith("    ")
        was_block = bool(lines) and lines[-1].startswith("    ")
        if lines and lines[-1] and line and is_block != was_block:
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
