"""How time grows with layers, values, batch and threads: exponents of the power law that fits.

    python -m benchmarks.speed.scaling                                    10 to 500 layers
    python -m benchmarks.speed.scaling --layers 10 20 40 --what layers values

1 is linear. Each size runs in a process of its own, for threads, memory and caches to be its own.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.nets import chain
from benchmarks.speed.kernels import METHODS, native, ours, step, tensors
from benchmarks.timing import growth, in_new_process, interleaved, save

WHAT = ("layers", "values", "batch")


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(_one(*arguments.one)))
        return
    sizes = {"layers": arguments.layers, "values": arguments.values, "batch": arguments.batches}
    rows = []
    for what in arguments.what:
        for threads in arguments.threads if what == "values" else [0]:
            run = [in_new_process("speed.scaling", "--one", what, n, threads) for n in sizes[what]]
            wrong = [figures["error"] for figures in run if "error" in figures]
            if wrong:
                raise SystemExit(f"{what}: {wrong[0]}")
            rows += _grown(what, threads, sizes[what], run)
            print(rows[-1], flush=True)
    print(save(arguments.name, "Growth: seconds by size, and the exponent", rows))


def _grown(what: str, threads: int, sizes: list[int], run: list[dict[str, float]]) -> list[dict]:
    rows = []
    for verb in run[0]:
        values = [figures[verb] for figures in run]
        row: dict[str, Any] = {"what": what, "threads": threads or "all", "verb": verb}
        row |= {
            f"size {i}": f"{n}: {v:.3g}" for i, (n, v) in enumerate(zip(sizes, values, strict=True))
        }
        rows.append(row | {"exponent": growth(sizes, values)})
    return rows


def _one(what: str, size: str, threads: str) -> dict[str, float]:
    if int(threads):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    return {"layers": _layers, "values": _values, "batch": _batch}[what](int(size))


def _layers(depth: int) -> dict[str, float]:
    """Seconds of each verb on a chain of so many layers, ours and stock TFMOT's quantize."""
    import tensorflow_model_optimization as tfmot

    import qat_round as qr

    model, times = chain(depth), {}
    times["stock quantize"], _ = _timed(lambda: tfmot.quantization.keras.quantize_model(model))
    times["quantize"], q = _timed(lambda: qr.quantize_model(model))
    import numpy as np

    x = np.random.default_rng(0).normal(size=(32, 8, 8, 8)).astype(np.float32)
    times["calibrate"], _ = _timed(lambda: qr.calibrate(q, x))
    times["export"], tflite = _timed(lambda: qr.export_tflite(q, io="int8"))
    with tempfile.TemporaryDirectory() as folder:
        path = os.fspath(pathlib.Path(folder) / "model.keras")
        times["save"], _ = _timed(lambda: q.save(path))
        times["load"], _ = _timed(lambda: qr.load_model(path))
    times["verify"], _ = _timed(lambda: qr.verify_tflite(q, tflite, x))
    return times


def _values(size: int) -> dict[str, float]:
    """Seconds of one kernel, forward and backward."""
    import functools

    import qat_round as qr

    soft = functools.partial(ours, rounder=qr.get(**METHODS["sine"]))
    given = tensors(size, "tensor", "float32")
    steps = {"native": step(native, *given), "sine, soft": step(soft, *given)}
    return {name: spent.median for name, spent in interleaved(steps, 7).items()}


def _batch(size: int) -> dict[str, float]:
    """Seconds of one training step of the small net."""
    from benchmarks.speed.steps import training_step

    configs = ("float", "stock", "ste, hard", "sine, soft")
    steps = {config: training_step("small", size, config) for config in configs}
    return {name: spent.median for name, spent in interleaved(steps, 7, seconds=0.0).items()}


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", default=list(WHAT), choices=WHAT)
    parser.add_argument("--layers", nargs="+", type=int, default=[10, 30, 100, 250, 500])
    parser.add_argument("--values", nargs="+", type=int, default=[10**5, 10**6, 10**7])
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 8, 16, 32, 64])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--name", default="scaling", help="of the files in results/")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
