"""The command line: parse, call one library function, print.

`--help` needs no TensorFlow: each command imports what it calls when it runs.
"""

from __future__ import annotations

import os
import sys

from qat_round.cli.frame import invoke, qat_round


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and gives the exit status.

    Args:
        argv: the arguments; None for the program's own.
    """
    from qat_round.cli import commands_inspect, commands_make, commands_recipe  # noqa: F401

    return invoke(qat_round, argv)


def program() -> None:
    """The installed program `qat-round`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "--debug" not in sys.argv:
        _without_native_messages()
    status = main()
    sys.stdout.flush()
    sys.exit(status)


def _without_native_messages() -> None:
    """TensorFlow's C++ parts write to standard error whatever is asked; ours still gets there."""
    kept = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = os.fdopen(kept, "w", buffering=1)
