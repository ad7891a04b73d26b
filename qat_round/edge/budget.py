"""Does it fit? Flash, SRAM and multiply-accumulates against what a device has."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from typing import Any

import numpy as np

from qat_round._tables import as_text
from qat_round.edge.micro import run_micro
from qat_round.edge.operators import (
    MICRO_OPERATORS,
    constants,
    layer_of,
    macs,
    missing_operators,
    peak,
    tensor_bytes,
)
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile

_SHOWN = 5  # layers that are named


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a file takes of a device.

    Args:
        flash, sram, macs: what it takes: bytes, bytes, multiply-accumulates.
        limits: what there is, by the same names.
        sram_from: "tflite-micro", which ran it, or "estimate": live tensors alone.
        advice: what does not fit, and the layers to lower.
    """

    flash: int
    sram: int
    macs: int
    limits: dict[str, int]
    sram_from: str
    advice: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it fits."""
        return not self.advice

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "ok": self.ok}

    def table(self) -> str:
        """What it takes and what there is, and what to do."""
        words = {"flash": "flash (bytes)", "sram": "SRAM (bytes)", "macs": "MACs"}
        rows = [
            (
                word,
                f"{getattr(self, key):,}",
                f"{self.limits[key]:,}" if key in self.limits else "-",
            )
            for key, word in words.items()
        ]
        text = as_text("Budget", ("", "takes", "there is"), rows)
        return text + "\n".join(self.advice or ("It fits.",))


def budget(
    tflite: bytes | str | os.PathLike[str],
    flash: int | None = None,
    sram: int | None = None,
    ops: int | None = None,
) -> Budget:
    """Says whether a file fits a device, and if not which layers to lower.

    Args:
        tflite: the file.
        flash: bytes for the model.
        sram: bytes for the arena; measured with TFLite-Micro where the extra [edge] is installed,
            else estimated from the tensors that live at one time.
        ops: multiply-accumulates of one inference.

    Returns:
        A Budget; `.ok`, `.table()`.

    Raises:
        ValueError: for a damaged file.
    """
    file = TFLiteFile(tflite)
    size, total = len(file.content), sum(macs(file, op) for op in file.operators)
    arena, source = _arena(file)
    given = {"flash": flash, "sram": sram, "macs": ops}
    limits = {key: value for key, value in given.items() if value is not None}
    taken = {"flash": size, "sram": arena, "macs": total}
    tell = {"flash": _flash_advice, "sram": _sram_advice, "macs": _macs_advice}
    advice = [
        tell[key](file, taken[key], limit) for key, limit in limits.items() if taken[key] > limit
    ]
    return Budget(size, arena, total, limits, source, tuple(advice))


def _arena(file: TFLiteFile) -> tuple[int, str]:
    runner = Runner(file)
    can_run = (
        importlib.util.find_spec("tflite_micro") is not None
        and not missing_operators(file, MICRO_OPERATORS)
        and runner.fixed_batch() in (None, 1)
    )
    if can_run:
        zeros = {
            name: np.zeros((1, *details["shape"][1:]), np.float32)
            for name, details in runner.inputs.items()
        }
        try:
            return run_micro(file.content, zeros).arena_bytes, "tflite-micro"
        except ValueError:  # its kernels refuse the file
            pass
    return peak(file)[0], "estimate"


def _flash_advice(file: TFLiteFile, taken: int, limit: int) -> str:
    fixed = constants(file)
    sizes: dict[str, tuple[int, int]] = {}
    for op in file.operators:
        held = [file.tensors[i] for i in op.inputs if i in fixed]
        wide = sum(tensor_bytes(t) for t in held if t.type in ("INT8", "FLOAT32"))
        sizes[layer_of(file, op)] = (sum(map(tensor_bytes, held)), wide // 2)
    largest = sorted(sizes.items(), key=lambda pair: -pair[1][0])[:_SHOWN]
    named = ", ".join(f"{name} ({size:,} bytes)" for name, (size, _) in largest if size)
    gain = sum(half for _, half in sizes.values())
    return (
        f"Flash: {taken:,} bytes, {taken - limit:,} too many. Largest weights: {named}. 4-bit "
        f"weights in all layers would save about {gain:,}."
    )


def _sram_advice(file: TFLiteFile, taken: int, limit: int) -> str:
    _, alive = peak(file)
    named = ", ".join(f"{name} ({size:,} bytes)" for name, size in alive[:_SHOWN])
    return (
        f"SRAM: {taken:,} bytes, {taken - limit:,} too many. At the peak there live {named}: fewer "
        "channels or a larger stride there, or a smaller input."
    )


def _macs_advice(file: TFLiteFile, taken: int, limit: int) -> str:
    costs = sorted(((macs(file, op), layer_of(file, op)) for op in file.operators), reverse=True)
    named = ", ".join(f"{name} ({cost:,})" for cost, name in costs[:_SHOWN] if cost)
    return f"MACs: {taken:,}, {taken - limit:,} too many. Most are in {named}."
