"""Time and memory of one fake quantization, forward and backward, beside TensorFlow's native op.

    python -m benchmarks.speed.kernels                          the whole table (an hour)
    python -m benchmarks.speed.kernels --sizes 1e4 1e6 --rounders sine --layouts tensor

Rows: the native op; plain autodiff (the formula in TensorFlow's operations, gradient by autodiff);
ours by rounder. `ratio` is to the native op of the same row's size, layout and dtype; `limit` is to
the memory limit: x read and y written, then x and dy read and dx written, 20 bytes a float32 value
at the copy bandwidth measured in the same run, on the GPU where there is one (a copy counts its
reads and its writes).
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from typing import Any

from benchmarks.timing import (
    copy_seconds,
    in_new_process,
    interleaved,
    peak_above,
    save,
    settled,
)

TITLE = "Kernels: one fake quantization, forward and backward"
CHANNELS = 64
LARGEST_PLAIN = 10**7  # plain autodiff keeps some thirty tensors of the size
METHODS: dict[str, dict[str, Any]] = {  # row -> what qr.get takes
    "sigmoid": {"rounder": "sigmoid", "slope": 10.0},
    "ramp": {"rounder": "ramp"},
    "tanh": {"rounder": "tanh"},
    "expected": {"rounder": "expected"},
    "ste": {"rounder": "ste"},
    "sine": {"rounder": "sine"},
    "sine 3": {"rounder": "sine", "iterations": 3},
    "fourier 5": {"rounder": "fourier", "terms": 5},
    "stochastic": {"rounder": "stochastic", "seed": 1},
}


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(_peak_of_one(*arguments.one)))
        return
    rows = []
    for dtype in arguments.dtypes:
        for layout in arguments.layouts:
            for size in arguments.sizes:
                rows += measure(int(float(size)), layout, dtype, arguments)
                text = save(arguments.name, TITLE, rows)
    print(text)


def measure(size: int, layout: str, dtype: str, arguments: Any) -> list[dict[str, Any]]:
    """One row for each method, at one size, layout and dtype."""
    chosen = _chosen(arguments.rounders, arguments.forwards)
    if size > LARGEST_PLAIN:
        chosen = {name: fake for name, fake in chosen.items() if "plain" not in name}
    given = tensors(size, layout, dtype)
    steps = {name: step(fake, *given) for name, fake in chosen.items()}
    times = interleaved(steps, arguments.rounds)
    del steps, given
    width = {"float32": 4, "float64": 8}.get(dtype, 2)
    limit = copy_seconds(5 * width * size // 2)
    native = times["native"].median
    rows = []
    for name, spent in times.items():
        row = {"dtype": dtype, "layout": layout, "values": f"{size:.0e}", "method": name}
        row |= {"time": str(spent), "ratio": spent.median / native, "limit": spent.median / limit}
        row["ratio of minima"] = spent.least / times["native"].least
        if arguments.memory:
            row |= in_new_process("speed.kernels", "--one", name, size, layout, dtype)
        rows.append(row)
    return rows


def tensors(size: int, layout: str, dtype: str) -> tuple[Any, ...]:
    """x, dL/dy and the ends of the range."""
    import tensorflow as tf

    shape = [size] if layout == "tensor" else [size // CHANNELS, CHANNELS]
    ends = [] if layout == "tensor" else [CHANNELS]
    x, dy = (tf.cast(tf.random.normal(shape), dtype) for _ in range(2))
    return x, dy, tf.fill(ends, -3.0), tf.fill(ends, 3.0)


def step(fake: Callable[..., Any], x: Any, dy: Any, lo: Any, hi: Any) -> Callable[[], Any]:
    """One compiled training step's part: y and dL/dx, from x and dL/dy."""
    import tensorflow as tf

    @tf.function
    def forward_and_backward(x: Any, dy: Any, lo: Any, hi: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = fake(x, lo, hi)
        return y, tape.gradient(y, x, dy)

    return functools.partial(
        forward_and_backward.get_concrete_function(x, dy, lo, hi), x, dy, lo, hi
    )


def native(x: Any, lo: Any, hi: Any) -> Any:
    """TensorFlow's op, with its own gradient."""
    import tensorflow as tf

    one = lo.shape.rank == 0
    name = "fake_quant_with_min_max_vars" + ("" if one else "_per_channel")
    return tf.cast(getattr(tf.quantization, name)(tf.cast(x, tf.float32), lo, hi), x.dtype)


def ours(x: Any, lo: Any, hi: Any, rounder: Any) -> Any:
    """`qr.fake_quant` as a quantizer calls it."""
    import qat_round as qr

    return qr.fake_quant(x, qr.grid_from_range(lo, hi), rounder)


def plain(x: Any, lo: Any, hi: Any, rounder: Any) -> Any:
    """The same formula, one TensorFlow operation after another, differentiated by TensorFlow."""
    import tensorflow as tf

    import qat_round as qr

    grid = qr.grid_from_range(lo, hi)
    clipped = tf.clip_by_value(tf.cast(x, tf.float32), grid.nudged_lo, grid.nudged_hi)
    steps = (clipped - grid.nudged_lo) / grid.step
    return tf.cast(rounder.soft(steps) * grid.step + grid.nudged_lo, x.dtype)


def _chosen(rounders: list[str], forwards: list[str]) -> dict[str, Callable[..., Any]]:
    import qat_round as qr

    methods: dict[str, Callable[..., Any]] = {"native": native}
    for name in rounders:
        for forward in forwards:
            rounder = qr.get(**METHODS[name], forward=forward)
            if rounder.is_hard and forward == "soft":
                continue  # hard by nature: one row
            methods[f"{name}, {forward}"] = functools.partial(ours, rounder=rounder)
        soft = qr.get(**METHODS[name])
        methods[f"{name}, plain autodiff"] = functools.partial(plain, rounder=soft)
    return methods


def _peak_of_one(name: str, size: str, layout: str, dtype: str) -> dict[str, Any]:
    """Peak memory of one method above what is resident before its first step; x, dy not counted."""
    method = _chosen([name.split(", ")[0]] if ", " in name else [], ["soft", "hard"])[name]
    run = settled(step(method, *tensors(int(size), layout, dtype)))
    step(
        method, *tensors(CHANNELS * 1024, layout, dtype)
    )()  # so that the compilers' memory is not counted
    return {"bytes a value": peak_above(run) / int(size)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["1e4", "1e5", "1e6", "1e7", "1e8"])
    parser.add_argument("--rounders", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--forwards", nargs="+", default=["soft", "hard"])
    parser.add_argument("--layouts", nargs="+", default=["tensor", "channel"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--memory", action="store_true", help="a process for each row's peak memory"
    )
    parser.add_argument("--name", default="kernels", help="of the files in results/")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
