"""TensorFlow Lite for Microcontrollers' own interpreter, in a process of its own (extra [edge])."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qat_round.files.interpreter import Runner, quantized
from qat_round.files.tflite_file import TFLiteFile

ARENA = 64 * 1024  # bytes; the first try
_LARGEST = 512 * 1024 * 1024
_WORKER = pathlib.Path(__file__).with_name("micro_worker.py")


class Answers(NamedTuple):
    """What TFLite-Micro made of some samples.

    Args:
        outputs: in the order of the file's own list, in their own types.
        kept: the tensors that were asked for besides.
        said: what it said, of allocations too.
    """

    outputs: list[np.ndarray]
    kept: list[np.ndarray]
    said: str


class MicroRunner(Runner):
    """An interpreter as `Runner` is one, that TFLite-Micro's kernels compute in.

    Args:
        file: the model; its batch size may be fixed (1) or open, which is run as 1.
        verb: who asks, for the messages.
        arena: bytes; None: as many as are needed.

    Raises:
        ImportError: without the extra.
        ValueError: for a file that runs several samples at once.
    """

    def __init__(self, file: TFLiteFile, verb: str, arena: int | None = None):
        require("tflite_micro", verb)
        super().__init__(file)
        self.kernels, self._verb, self._arena, self._file = "micro", verb, arena, file
        if super().fixed_batch() not in (None, 1):
            raise ValueError(
                f"{verb}: the file runs {super().fixed_batch()} samples at once; export it with "
                "batch_size=1."
            )
        self._given: list[np.ndarray] = []
        self._found: dict[int, np.ndarray] = {}

    def fixed_batch(self) -> int | None:
        """None: it runs as many samples as it is given, one by one."""
        return None

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs samples, {input name: array}; outputs in the order of `self.outputs`.

        Raises:
            ValueError: for an arena that is too small, or a file that its kernels refuse.
        """
        self.answer(inputs)
        return [self.read(details["index"]) for details in self.outputs.values()]

    def answer(self, inputs: Mapping[str, np.ndarray]) -> str:
        """Runs samples, whose outputs can be read then; gives what TFLite-Micro said."""
        by_index = {
            int(details["index"]): quantized(inputs[name], details, self.kernels)
            for name, details in self.inputs.items()
        }
        self._given = [by_index[index] for index in self.end_indices("inputs")]
        answers = self._run(())
        self._found = dict(zip(self.end_indices("outputs"), answers.outputs, strict=True))
        return answers.said

    def read_raw(self, index: int) -> np.ndarray:
        """A tensor of the last run; what is no output is computed anew."""
        if index not in self._found:
            (self._found[index],) = self._run((index,)).kept
        return self._found[index]

    def _run(self, kept: Sequence[int]) -> Answers:
        """The arena is enlarged until it is enough."""
        size = self._arena or ARENA
        while True:
            done, answers = _work(self._file.content, self._given, size, kept)
            if answers is not None:
                return answers
            is_refused = "failed to prepare" in done.stderr  # also said where an arena is too small
            is_small = "missing:" in done.stderr or (
                "allocate" in done.stderr.lower() and not is_refused
            )
            if self._arena is not None or not is_small or size >= _LARGEST:
                raise ValueError(_refusal(self._verb, done, size, is_small))
            size *= 4


def require(module: str, verb: str) -> None:
    """Raises an ImportError that names the extra, if a package is not there."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{verb} needs the package of {module!r}: pip install 'qat_round[edge]'.")


def _work(
    tflite: bytes, inputs: list[np.ndarray], size: int, kept: Sequence[int]
) -> tuple[Any, Answers | None]:
    """In a process of its own: its kernels end the process on some files."""
    with tempfile.TemporaryDirectory() as folder:
        job, result = pathlib.Path(folder) / "job.npz", pathlib.Path(folder) / "result.npz"
        arrays: dict[str, Any] = {f"in{i}": array for i, array in enumerate(inputs)}
        content = np.frombuffer(tflite, np.uint8)
        np.savez(job, tflite=content, arena=size, kept=np.array(kept, np.int64), **arrays)
        command = [sys.executable, str(_WORKER), str(job), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or not result.exists():
            return done, None
        with np.load(result) as file:
            outputs = [file[f"out{i}"] for i in range(len(file.files) - len(kept))]
            found = [file[f"kept{i}"] for i in range(len(kept))]
        return done, Answers(outputs, found, done.stderr)


def _refusal(verb: str, done: Any, size: int, is_small: bool) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    telling = ("was not true", "rror", "ailed")
    said = next((line for line in lines if any(word in line for word in telling)), "no message")
    if is_small:
        return f"{verb}: an arena of {size} bytes is too small ({said})."
    return f"{verb}: TFLite-Micro refuses the file (status {done.returncode}): {said}"
