"""Programs that tests start in a process of their own: `python -m tests.scripts.NAME`."""

from __future__ import annotations

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
"""The folder to start them in."""


def command(name: str, *arguments: str) -> list[str]:
    """The command line of a program of this folder."""
    return [sys.executable, "-m", f"tests.scripts.{name}", *arguments]
