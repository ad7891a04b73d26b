"""What shows that a long command is at work: on a terminal only, and on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator

from qat_round.cli.frame import flag


@dataclasses.dataclass(frozen=True)
class Progress:
    """Two functions that work calls.

    Args:
        told: takes a line, when a stage begins or an epoch ends.
        moved: takes how many training steps are done, and of how many.
    """

    told: Callable[[str], None]
    moved: Callable[[int, int], None]


@contextlib.contextmanager
def working(on: str) -> Iterator[Progress]:
    """A spinner, and a bar while training; nothing in a pipe or with --quiet.

    Args:
        on: the stage that begins.
    """
    if not sys.stderr.isatty() or flag("quiet"):
        yield Progress(lambda message: None, lambda done, total: None)
        return
    from rich import console, progress

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    screen = console.Console(stderr=True, markup=False, highlight=False)
    with progress.Progress(*columns, console=screen, transient=True) as bars:
        task = bars.add_task(on, total=None)

        def told(message: str) -> None:
            bars.print(message)
            bars.update(task, description=message, total=None)

        def moved(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield Progress(told, moved)
