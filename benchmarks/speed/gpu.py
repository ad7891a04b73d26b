"""Training steps, memory and kernels on a GPU, beside float and stock TFMOT, in six minutes.

    python -m benchmarks.speed.gpu
    python -m benchmarks.speed.gpu --nets resnet50 --modes fit            what the time is to go to
    python -m benchmarks.speed.gpu --seconds 60 --nets small --batches 4 --sizes 1e4    a dry run

The rows that matter most are measured first; each table is printed and saved as it is measured.
What the time does not suffice for is left out: beside an H200 a first step takes 20 to 80 seconds,
so that six minutes are one net in one mode, and kernels. A net is made once for all its batch
sizes. Batches are copied to the GPU before a step asks for them. `first, s` is the time to make
the net, to quantize it, to trace and to compile it. `peak, GiB` is above what is taken before the
step: weights are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.nets import NETS
from benchmarks.speed import kernels
from benchmarks.speed.steps import batches, train_function
from benchmarks.timing import (
    gpus,
    interleaved,
    machine,
    peak_above,
    runnable,
    save,
    settled,
    table,
)

CONFIGS = ("float", "stock", "ste, hard", "sine, soft", "ste, hard, learned")
POLICIES = ("mixed_float16",)  # modes that are a policy of Keras; the others use float32
TITLES = {"gpu": "Training steps on a GPU", "gpu_kernels": "Kernels on a GPU"}
MODES = ["fit", "kernels", "jit_compile", *POLICIES]
ROUNDS = 7
Rows = list[dict[str, Any]]


class ReadyNet(NamedTuple):
    """A net ready to train: its step by an iterator of batches, or the reason why there is none."""

    step: Callable[[Any], Any] | None
    error: str
    first: float


def main() -> None:
    arguments = _arguments()
    arguments.deadline = time.monotonic() + arguments.seconds
    print(json.dumps(_versions()), flush=True)
    saved: dict[str, Rows] = {}
    for measure, *what in _plan(arguments.nets, arguments.modes):
        if time.monotonic() > arguments.deadline:
            break
        for name, rows in measure(*what, arguments):
            saved.setdefault(name, []).extend(rows)
            save(name, TITLES[name], saved[name])
            left = arguments.deadline - time.monotonic()
            print(f"{table(rows)}\n\n{left:.0f} s left\n", flush=True)


def steps(net: str, mode: str, arguments: argparse.Namespace) -> Iterator[tuple[str, Rows]]:
    """Yields the rows of one net in one mode, for each batch size."""
    with _policy(mode if mode in POLICIES else "float32"):
        made = {
            config: _ready_net(net, config, mode, arguments.batches[0], arguments.deadline)
            for config in arguments.configs
        }
        for batch in arguments.batches:
            about = {"net": net, "mode": mode, "batch": batch}
            yield "gpu", _step_rows(about, made, arguments.deadline)


def kernel_rows(
    dtype: str, layout: str, arguments: argparse.Namespace
) -> Iterator[tuple[str, Rows]]:
    """Yields the rows of one dtype and layout, for each size."""
    chosen = argparse.Namespace(
        rounders=["ste", "sine"], forwards=["soft", "hard"], rounds=ROUNDS, memory=False
    )
    for size in arguments.sizes:
        if time.monotonic() < arguments.deadline:
            yield "gpu_kernels", kernels.measure(int(float(size)), layout, dtype, chosen)


def _plan(nets: list[str], modes: list[str]) -> list[tuple[Any, ...]]:
    """Measurements in order of importance: a function and its arguments."""
    first, *others = nets
    whole: list[tuple[Any, ...]] = [
        (steps, first, "fit"),
        (kernel_rows, "float32", "tensor"),
        *((steps, net, "fit") for net in others),
        (steps, first, "jit_compile"),
        (steps, first, "mixed_float16"),
        (kernel_rows, "bfloat16", "tensor"),
        (kernel_rows, "float32", "channel"),
        *((steps, net, mode) for mode in ("mixed_float16", "jit_compile") for net in others),
        (kernel_rows, "bfloat16", "channel"),
    ]
    return [one for one in whole if (one[2] if one[0] is steps else "kernels") in modes]


def _ready_net(net: str, config: str, mode: str, batch: int, deadline: float) -> ReadyNet:
    """The net after its first step."""
    begin = time.perf_counter()
    make = functools.partial(train_function, net, config, mode == "jit_compile")
    functions, errors = runnable({config: functools.partial(_fed, make, batch, deadline)})
    seconds = time.perf_counter() - begin
    return ReadyNet(getattr(functions.get(config), "func", None), errors.get(config, ""), seconds)


def _fed(make: Callable[[], Callable[..., Any]], batch: int, deadline: float) -> Any:
    """A step with its batches.

    Raises:
        TimeoutError: if the deadline is over.
    """
    import tensorflow as tf

    if time.monotonic() > deadline:
        raise TimeoutError("no time left")
    data = batches(batch)
    if gpus():
        data = data.apply(tf.data.experimental.prefetch_to_device("/GPU:0"))
    return functools.partial(make(), iter(data))


def _step_rows(about: dict[str, Any], made: Mapping[str, ReadyNet], deadline: float) -> Rows:
    """One row for each config; ratios to float and to stock TFMOT."""
    makers = {
        config: functools.partial(
            _fed, functools.partial(_same, one.step), about["batch"], deadline
        )
        for config, one in made.items()
        if one.step is not None
    }
    functions, errors = runnable(makers)
    errors = {config: one.error for config, one in made.items() if one.error} | errors
    figures = _figures(functions)
    rows = []
    for config, one in made.items():
        row = about | {"config": config, "error": errors.get(config, "")}
        row["first, s"] = one.first
        for name, values in figures.items():
            if config in values:
                row[name] = values[config]
                for other in ("stock", "float"):
                    row[f"{name} / {other}"] = values[config] / (values.get(other) or float("nan"))
        rows.append(row)
    return rows


def _figures(functions: Mapping[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    """Milliseconds of each step, and GiB."""
    peaks = {name: peak_above(settled(run)) / 2**30 for name, run in functions.items()}
    times = interleaved(functions, ROUNDS, seconds=0.2)
    return {
        "step, ms": {name: 1e3 * spent.median for name, spent in times.items()},
        "peak, GiB": peaks,
    }


def _same(value: Any) -> Any:
    return value


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    """Keras's policy of precision, for nets made inside."""
    import tf_keras as keras

    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _versions() -> dict[str, Any]:
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    names = ("cuda_version", "cudnn_version", "cuda_compute_capabilities")
    built = {name: tf.sysconfig.get_build_info().get(name) for name in names}
    return machine() | built | {"tf_keras": keras.__version__, "tfmot": tfmot.__version__}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=330.0, help="nothing is begun after them")
    parser.add_argument(
        "--nets", nargs="+", default=["mobilenet_v2_1.0", "resnet50"], choices=list(NETS)
    )
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS))
    parser.add_argument("--sizes", nargs="+", default=["1e5", "1e6", "1e7", "1e8"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
