"""Runs TFLite-Micro in a process of its own: `micro_worker.py JOB.npz RESULT.npz`."""

from __future__ import annotations

import sys

import numpy as np


def work(job: str, result: str) -> None:
    """Runs every sample of a job and writes the raw outputs.

    Args:
        job: an .npz with the file's bytes, the arena's size, and the inputs.
        result: the .npz to write.
    """
    from tflite_micro.python.tflite_micro import runtime

    with np.load(job) as file:
        tflite, arena = file["tflite"].tobytes(), int(file["arena"])
        inputs = [file[f"in{i}"] for i in range(len(file.files) - 2)]
    lite = runtime.Interpreter.from_bytes(tflite, arena_size=arena)
    found = []
    for sample in range(len(inputs[0])):
        for at, array in enumerate(inputs):
            lite.set_input(np.ascontiguousarray(array[sample : sample + 1]), at)
        lite.invoke()
        found.append(_outputs(lite))
    lite.print_allocations()
    joined = {f"out{i}": np.concatenate(parts) for i, parts in enumerate(zip(*found, strict=True))}
    np.savez(result, **joined)  # type: ignore[arg-type]


def _outputs(lite: object) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    while True:
        try:
            found.append(np.array(lite.get_output(len(found))))  # type: ignore[attr-defined]
        except (IndexError, ValueError, RuntimeError):
            return found


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2])
