"""Checks of arguments, with errors that name the setting and what is allowed."""

from __future__ import annotations

import difflib
import numbers
from typing import Any


def require(condition: bool, owner: object, message: str) -> None:
    """Raises a ValueError in the words of the class whose setting is wrong."""
    if not condition:
        raise ValueError(f"{type(owner).__name__}: {message}")


def real(value: Any, owner: object, name: str) -> float:
    """A setting as a plain float, so that it can be compared and written to a file.

    Raises:
        TypeError: if it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{type(owner).__name__}: {name}={value!r} has to be a number.")
    return float(value)


def whole(value: Any, owner: object, name: str, least: int) -> int:
    """A setting as a plain int.

    Raises:
        ValueError: if it is no whole number, or less than `least`.
    """
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    require(
        integral and value >= least,
        owner,
        f"{name}={value!r} has to be a whole number >= {least}.",
    )
    return int(value)


def nearest(name: str, allowed: list[str]) -> str:
    """A hint, " Did you mean 'x'?", or nothing where no allowed name is near."""
    close = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
