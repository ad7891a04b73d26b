"""What all commands share: exit status, one-line errors, `--json`."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

PASSED, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


class CheckFailed(Exception):  # noqa: N818
    """A check did not pass: exit status 1, the message on standard error."""


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, `--debug` and `--quiet`, kept in click's context."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
    @click.option("--quiet", is_flag=True, help="No progress on standard error.")
    @click.option("--debug", is_flag=True, help="Show tracebacks and TensorFlow's own messages.")
    @functools.wraps(command)
    def wrapped(as_json: bool, quiet: bool, debug: bool, **options: Any) -> Any:
        flags = {"json": as_json, "quiet": quiet, "debug": debug}
        click.get_current_context().find_root().obj.update(flags)
        return command(**options)

    return wrapped


def flag(name: str) -> bool:
    """Whether a common option was given."""
    return bool(click.get_current_context().find_root().obj.get(name))


def emit(result: Mapping[str, Any], text: str) -> None:
    """Prints a result: JSON if asked for, else text."""
    click.echo(json.dumps(result, indent=2, default=_plain) if flag("json") else text.rstrip("\n"))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.get_config() if hasattr(value, "get_config") else str(value)


def invoke(group: click.Group, argv: list[str] | None) -> int:
    """Runs a command and gives its exit status: 0 passed, 1 a check failed, 2 wrong use.

    Args:
        group: the commands.
        argv: the arguments; None for the program's own.
    """
    flags: dict[str, Any] = {}
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        with group.make_context("qat-round", given, obj=flags) as context:
            group.invoke(context)
    except CheckFailed as failed:
        return _told(failed, FAILED)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _told("interrupted; what was finished is whole.", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PASSED
    except click.ClickException as error:
        return _told(error.format_message(), WRONG_USE)
    except Exception as error:
        if flags.get("debug"):
            raise
        return _told(_in_words(error), WRONG_USE)
    return PASSED


def _told(message: Any, status: int) -> int:
    """The message as one line on standard error."""
    lines = (line.strip() for line in str(message).splitlines())
    click.echo(f"qat-round: {'; '.join(line for line in lines if line)}", err=True)
    return status


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename!r}" if error.filename else ""
        return f"{error.strerror}{where}."
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)):
        return str(error) or type(error).__name__
    first = next(iter(str(error).splitlines()), "")
    return f"unexpected {type(error).__name__}: {first} (--debug shows where)"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="qat_round", prog_name="qat-round")
def qat_round() -> None:
    """Quantization-aware training with differentiable rounding: from a Keras model to a device.

    Exit status: 0 passed, 1 a check failed, 2 wrong use or a file that cannot be used.
    """
