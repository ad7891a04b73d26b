"""`qat-round init`: a commented recipe for a given model."""

from __future__ import annotations

import glob
import pathlib
from typing import Any

from qat_round.export.c_source import identifier
from qat_round.files.data_files import file_hash
from qat_round.frontend.load import open_model
from qat_round.models.coverage import coverage
from qat_round.pipeline.recipe_schema import as_toml, written
from qat_round.report.write_report import can_report
from qat_round.rounding import names

_DROP = 2.0  # points; 8 bits mostly lose less than one


def recipe_for(model: str, data: str) -> str:
    """A recipe with every key, its meaning and its default.

    Args:
        model: path of the float model; it is read, so that layers without an integer operator are
            named.
        data: path of the data.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it cannot be read.
    """
    if not pathlib.Path(model).exists():
        raise FileNotFoundError(f"init: there is no model {model!r}.")
    file_hash(model)
    found = coverage(model)
    name = identifier(pathlib.Path(model).stem)
    has_accuracy = len(open_model(model).model.outputs or ()) == 1
    parts: dict[str, dict[str, Any]] = {
        "model": {"path": model},
        "data": {"train": data},
        "export": {"name": f"{name}_int8"},
        "check": {"max_accuracy_drop": _DROP if has_accuracy else None},
        "report": {} if can_report() else {"html": None},
    }
    return written(parts, _quantize(found.float_layers))


def _quantize(in_float: dict[str, str]) -> str:
    lines = [
        "[quantize]  # how",
        '# recipe = "w4a8"  # instead of rounder and bits: w8a8, w8a16, w4a8',
        f'rounder = "ste"  # while training: {", ".join(names())}',
        "weight_bits = 8  # 2 to 8; 4 is stored as INT4",
        "activation_bits = 8  # 8, or 16 for int16x8",
        'unsupported = "error"  # or "float": leave layers without integer operator in float',
        "# [[quantize.overrides]]  # what differs in some layers",
        '# layers = "dense_*"  # or "class:Dense"',
        "# weights = {bits = 4}  # or false: in float",
    ]
    for layer, why in in_float.items():
        pattern = as_toml(glob.escape(layer))
        lines += [f"# {_one_line(layer)}: {_one_line(why)}", "[[quantize.overrides]]"]
        lines += [f"layers = {pattern}"]
        lines += ["weights = false", "activations = false"]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """A text as a comment may hold it."""
    return "".join(character if character.isprintable() else " " for character in text)
