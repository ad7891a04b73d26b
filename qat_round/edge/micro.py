"""The file on TensorFlow Lite for Microcontrollers, in its own interpreter."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import numpy as np

from qat_round.edge.operators import MICRO_OPERATORS, check_operators
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.verify.micro_runner import MicroRunner, require
from qat_round.verify.verify_tflite import named_inputs


@dataclasses.dataclass(frozen=True)
class MicroRun:
    """What TFLite-Micro made of a file.

    Args:
        outputs: real-valued outputs, by the file's names.
        arena_bytes: what the arena has to hold: tensors, scratch space and bookkeeping.
        head_bytes, tail_bytes: of these, what is shared by time and what stays.
        furthest: largest distance from LiteRT's interpreter, in steps of the output's grid.
    """

    outputs: dict[str, np.ndarray]
    arena_bytes: int
    head_bytes: int
    tail_bytes: int
    furthest: float

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data, without the outputs."""
        fields = dataclasses.asdict(self)
        fields.pop("outputs")
        return fields


def run_micro(
    tflite: bytes | str | os.PathLike[str], inputs: Any, arena_size: int | None = None
) -> MicroRun:
    """Runs a file sample by sample on TFLite-Micro's own interpreter (extra [edge]).

    Args:
        tflite: the file; its batch size may be fixed (1) or open, which is run as 1.
        inputs: real-valued: an array, or a dict by the file's input names.
        arena_size: bytes; None: as many as are needed.

    Returns:
        A MicroRun.

    Raises:
        ImportError: without the extra.
        ValueError: for operators that TFLite-Micro lacks, inputs that do not fit, an arena that is
            too small, or a file that its kernels refuse.
    """
    require("tflite_micro", "run_micro")
    file = TFLiteFile(tflite)
    check_operators(file, "TFLite-Micro", MICRO_OPERATORS)
    runner = MicroRunner(file, "run_micro", arena_size)
    named = named_inputs(None, runner, inputs, 1, "run_micro")
    said = runner.answer(named)
    outputs = {name: runner.read(details["index"]) for name, details in runner.outputs.items()}
    return MicroRun(outputs, *_bytes(said), furthest=_furthest(Runner(file), named, outputs))


def _bytes(said: str) -> tuple[int, int, int]:
    words = ("total", "head", "tail")
    found = [re.search(rf"Arena allocation {word} (\d+) bytes", said) for word in words]
    total, head, tail = (int(match[1]) if match else 0 for match in found)
    return total, head, tail


def _furthest(runner: Runner, named: Any, outputs: dict[str, np.ndarray]) -> float:
    """Against LiteRT, one sample at a time, in steps."""
    worst = 0.0
    for at in range(len(next(iter(named.values())))):
        batch = {name: array[at : at + 1] for name, array in named.items()}
        for (name, details), theirs in zip(runner.outputs.items(), runner(batch), strict=True):
            step = details["quantization"][0] or 1.0
            worst = max(worst, float(np.abs(outputs[name][at : at + 1] - theirs).max() / step))
    return worst
