"""Prints the public names with their signatures: what tests/public_api.txt holds.

usage: python tools/public_api.py > tests/public_api.txt
"""

from __future__ import annotations

import inspect

import qat_round as qr


def line_of(name: str) -> str:
    """A public name with its arguments and their defaults, without types."""
    found = getattr(qr, name)
    if not callable(found):
        return name
    given = inspect.signature(found)
    plain = [_untyped(parameter) for parameter in given.parameters.values()]
    shown = given.replace(parameters=plain, return_annotation=inspect.Signature.empty)
    return f"{name}{shown}"


class _Some:
    """Stands for a default that is no plain value."""

    def __repr__(self) -> str:
        return "..."


def _untyped(parameter: inspect.Parameter) -> inspect.Parameter:
    given = parameter.default
    is_plain = given is parameter.empty or isinstance(given, (int, float, str, tuple, type(None)))
    default = given if is_plain else _Some()
    return parameter.replace(annotation=parameter.empty, default=default)


def lines() -> list[str]:
    """All of them, in the order of the alphabet."""
    return [line_of(name) for name in sorted(qr.__all__)]


if __name__ == "__main__":
    print("\n".join(lines()))
