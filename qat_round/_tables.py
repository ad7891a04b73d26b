"""Tables as text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence


def as_text(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], width: int = 120
) -> str:
    """A table, to be printed.

    Args:
        title: what stands above it.
        columns: heads of the columns.
        rows: their cells.
        width: in characters.

    Example:
        >>> print(as_text("Bits", ("layer", "bits"), [("conv", "8")]).split()[0])
        Bits
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()
