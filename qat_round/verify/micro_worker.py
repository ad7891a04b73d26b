"""Runs TFLite-Micro in a process of its own: `micro_worker.py JOB.npz RESULT.npz`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def work(job: str, result: str) -> None:
    """Runs every sample of a job and writes the raw outputs, and the tensors it asks for.

    Args:
        job: an .npz with the file's bytes, the arena's size, the tensors to keep, and the inputs.
        result: the .npz to write.
    """
    with np.load(job) as file:
        tflite, arena, kept = file["tflite"].tobytes(), int(file["arena"]), file["kept"].tolist()
        inputs = [file[f"in{i}"] for i in range(len(file.files) - 3)]
    lite = _interpreter(tflite, arena, keep_all=bool(kept))
    found, tensors = [], []
    for sample in range(len(inputs[0])):
        for at, array in enumerate(inputs):
            lite.set_input(np.ascontiguousarray(array[sample : sample + 1]), at)
        lite.invoke()
        found.append(_outputs(lite))
        tensors.append([np.array(lite.GetTensor(i, 0)["tensor_data"]) for i in kept])
    if not kept:
        lite.print_allocations()
    np.savez(result, **_joined("out", found), **_joined("kept", tensors))  # type: ignore[arg-type]


def _interpreter(tflite: bytes, arena: int, keep_all: bool) -> Any:
    """It records allocations or keeps tensors, but not both."""
    from tflite_micro.python.tflite_micro import runtime

    configs = runtime.InterpreterConfig
    config = configs.kPreserveAllTensors if keep_all else configs.kAllocationRecording
    return runtime.Interpreter.from_bytes(tflite, arena_size=arena, intrepreter_config=config)


def _joined(name: str, samples: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
    parts = zip(*samples, strict=True)
    return {f"{name}{i}": np.concatenate(part) for i, part in enumerate(parts)}


def _outputs(lite: Any) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    while True:
        try:
            found.append(np.array(lite.get_output(len(found))))
        except (IndexError, ValueError, RuntimeError):
            return found


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2])
