"""Atomic writes: the old file or the new one, never half."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises an OSError that says why, if a file cannot be written at the path."""
    target = pathlib.Path(path)
    folder = str(target.parent)
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder; give a file name inside of it.")
    if not target.parent.exists():
        raise FileNotFoundError(f"The folder {folder!r} does not exist; make it first.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise type(error)(f"Nothing can be written in {folder!r}: {error.strerror}.") from error


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes beside the path and renames, so that there is the old file or the new one, whole."""
    write_files({path: content})


def write_files(contents: Mapping[Any, bytes]) -> None:
    """Writes files that belong together: none gets its name before all are on the disk.

    Args:
        contents: path -> what is to be in the file.
    """
    besides: dict[str, pathlib.Path] = {}
    try:
        for path, content in contents.items():
            target = pathlib.Path(path)
            handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            besides[beside] = target
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(beside, 0o666 & ~_umask())
        for beside, target in besides.items():
            os.replace(beside, target)
    except BaseException:
        for beside in besides:
            pathlib.Path(beside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
