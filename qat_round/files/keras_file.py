"""A model as a `.keras` file that is never half written."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from qat_round.files.atomic_write import check_writable


def save_model(model: Any, path: pathlib.Path | str) -> None:
    """Saves a model as `.keras`, beside its place first, then renamed."""
    target = pathlib.Path(path)
    check_writable(target)
    beside = target.parent / f".{target.stem}.saving.keras"
    optimizer, is_compiled = getattr(model, "optimizer", None), model._is_compiled
    try:
        model.optimizer, model._is_compiled = None, False  # their state is no part of what ships
        model.save(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        model.optimizer, model._is_compiled = optimizer, is_compiled
        beside.unlink(missing_ok=True)
