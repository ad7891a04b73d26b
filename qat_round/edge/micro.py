"""The file on TensorFlow Lite for Microcontrollers, in its own interpreter."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from ..tflite_file import Runner, TFLiteFile, quantized, real
from ..verify import named_inputs
from .operators import MICRO_OPERATORS, check_operators

_ARENA = 64 * 1024  # bytes; the first try
_LARGEST = 512 * 1024 * 1024
_WORKER = pathlib.Path(__file__).with_name("micro_worker.py")


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
    runner = Runner(file)
    named = named_inputs(None, runner, inputs, 1, "run_micro")
    if runner.fixed_batch() not in (None, 1):
        raise ValueError(
            f"run_micro: the file runs {runner.fixed_batch()} samples at once; export it with "
            "batch_size=1."
        )
    given = [quantized(named[name], details, "micro") for name, details in runner.inputs.items()]
    raw, said = _run(file.content, _in_tensor_order(runner, "inputs", given), arena_size)
    found = dict(zip(_order(runner, "outputs"), raw, strict=True))
    outputs = {name: real(found[name], details) for name, details in runner.outputs.items()}
    return MicroRun(outputs, *_bytes(said), furthest=_furthest(runner, named, outputs))


def require(module: str, verb: str) -> None:
    """Raises an ImportError that names the extra, if a package is not there."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{verb} needs the package of {module!r}: pip install 'qat_round[edge]'.")


def _order(runner: Runner, which: str) -> list[str]:
    """Names of the signature, in the order of the file's own list."""
    details = getattr(runner, which)
    ends = runner.end_indices(which)
    return sorted(details, key=lambda name: ends.index(details[name]["index"]))


def _in_tensor_order(runner: Runner, which: str, values: list[Any]) -> list[Any]:
    named = dict(zip(getattr(runner, which), values, strict=True))
    return [named[name] for name in _order(runner, which)]


def _run(
    tflite: bytes, inputs: list[np.ndarray], arena: int | None
) -> tuple[list[np.ndarray], str]:
    """Outputs and what was said of allocations; the arena is doubled until it is enough."""
    size = arena or _ARENA
    while True:
        done, outputs = _work(tflite, inputs, size)
        if outputs is not None:
            return outputs, done.stderr
        is_refused = "failed to prepare" in done.stderr  # also said where an arena is too small
        is_small = "missing:" in done.stderr or (
            "allocate" in done.stderr.lower() and not is_refused
        )
        if arena is not None or not is_small or size >= _LARGEST:
            raise ValueError(_refusal(done, size, is_small))
        size *= 4


def _work(tflite: bytes, inputs: list[np.ndarray], size: int) -> tuple[Any, Any]:
    """In a process of its own: its kernels end the process on some files."""
    with tempfile.TemporaryDirectory() as folder:
        job, result = pathlib.Path(folder) / "job.npz", pathlib.Path(folder) / "result.npz"
        arrays: dict[str, Any] = {f"in{i}": array for i, array in enumerate(inputs)}
        np.savez(job, tflite=np.frombuffer(tflite, np.uint8), arena=size, **arrays)
        command = [sys.executable, str(_WORKER), str(job), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or not result.exists():
            return done, None
        with np.load(result) as file:
            return done, [file[f"out{i}"] for i in range(len(file.files))]


def _refusal(done: Any, size: int, is_small: bool) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    telling = ("was not true", "rror", "ailed")
    said = next((line for line in lines if any(word in line for word in telling)), "no message")
    if is_small:
        return f"run_micro: an arena of {size} bytes is too small ({said})."
    return f"run_micro: TFLite-Micro refuses the file (status {done.returncode}): {said}"


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
