"""A whole training step: the float net, stock TFMOT, and ours by rounder and range.

    python -m benchmarks.speed.steps                                    the whole table (hours)
    python -m benchmarks.speed.steps --nets small --batches 8 --rounders ste sine
    python -m benchmarks.speed.steps --parts --steady-only --name profile     what the time goes to

Steady steps are interleaved in one process. The first step (tracing and compiling) and the peak of
resident memory are each taken in a process of their own.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from typing import Any

from benchmarks.nets import NETS, images
from benchmarks.timing import in_new_process, interleaved, peak_bytes, save, settled

ROUNDERS = ["ste", "sigmoid", "ramp", "fourier", "sine", "expected", "stochastic"]
SETTINGS: dict[str, dict[str, Any]] = {"sigmoid": {"slope": 10.0}}
LEARNED = ["ste, hard, learned", "sigmoid, soft, learned"]
PARTS: dict[str, dict[str, Any]] = {
    "weights only": {"activations": None},
    "activations only": {"weights": None},
    "ranges stand": {},
}
STEPS_TO_PEAK = 3


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(_first_step_and_peak(*arguments.one)))
        return
    rows = []
    for net in arguments.nets:
        for batch in arguments.batches:
            rows += measure(net, batch, _configs(arguments), arguments)
            text = save(arguments.name, "Training steps", rows)
    print(text)


def measure(net: str, batch: int, configs: list[str], arguments: Any) -> list[dict[str, Any]]:
    """One row for each config; ratios to stock TFMOT."""
    steps = {config: training_step(net, batch, config, arguments.jit) for config in configs}
    times = interleaved(steps, arguments.rounds, seconds=0.0)
    alone: dict[str, dict[str, Any]] = {config: {} for config in configs}
    if not arguments.steady_only:
        alone = {c: in_new_process("speed.steps", "--one", net, batch, c) for c in configs}
    stock, stock_alone = times["stock"].median, alone["stock"]
    rows = []
    for config in configs:
        row = {"net": net, "batch": batch, "config": config, "step": str(times[config])}
        row["step / stock"] = times[config].median / stock
        for figure, value in alone[config].items():
            row[figure] = value
            if isinstance(value, float):
                row[f"{figure} / stock"] = value / stock_alone[figure]
        rows.append(row)
    return rows


def training_step(net: str, batch: int, config: str, jit: bool = False) -> Callable[[], Any]:
    """One step of `fit` on the same batch again and again."""
    return functools.partial(train_function(net, config, jit), iter(batches(batch)))


def train_function(net: str, config: str, jit: bool = False) -> Callable[[Any], Any]:
    """One step of `fit`, from an iterator of batches of any size."""
    import tf_keras as keras

    model = quantized_net(net, config)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=jit)
    return model.make_train_function()


def batches(batch: int) -> Any:
    """The same batch without end, its size not known beforehand, as in `fit`."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(images(batch)).batch(batch).repeat()


def quantized_net(net: str, config: str) -> Any:
    """A net by a row's name: "float", "stock", or "rounder, forward[, what else]"."""
    model = NETS[net]()
    if config == "float":
        return model
    if config == "stock":
        import tensorflow_model_optimization as tfmot

        return tfmot.quantization.keras.quantize_model(model)
    import qat_round as qr

    name, forward, *what = config.split(", ")
    rounder = qr.get(name, forward=forward, **SETTINGS.get(name, {}))
    if what == ["learned"]:
        tensor = qr.TensorSpec(rounder=rounder, range="learned")
        q = qr.quantize_model(model, weights=tensor, activations=tensor)
        qr.calibrate(q, images(32)[0])
        return q
    if what == ["ranges stand"]:
        tensor = qr.TensorSpec(rounder=rounder, range="fixed")
        return qr.quantize_model(model, weights=tensor, activations=tensor)
    return qr.quantize_model(model, rounder=rounder, **(PARTS[what[0]] if what else {}))


def _first_step_and_peak(net: str, batch: str, config: str) -> dict[str, float]:
    step = settled(training_step(net, int(batch), config))
    begin = time.perf_counter()
    step()
    first = time.perf_counter() - begin
    for _ in range(STEPS_TO_PEAK):
        step()
    return {"first step, s": first, "peak, GiB": peak_bytes() / 2**30}


def _configs(arguments: argparse.Namespace) -> list[str]:
    forwards = arguments.forwards
    ours = []
    for name in arguments.rounders:  # `ste` is hard by nature
        ours += [f"{name}, {forward}" for forward in (["hard"] if name == "ste" else forwards)]
    if arguments.parts:
        return ["float", "stock", *(f"{c}, {part}" for c in ours for part in PARTS), *ours]
    return ["float", "stock", *ours, *(LEARNED if arguments.learned else [])]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--rounders", nargs="+", default=ROUNDERS)
    parser.add_argument("--forwards", nargs="+", default=["soft", "hard"])
    parser.add_argument("--learned", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--parts", action="store_true", help="weights and activations alone, too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--jit", action="store_true", help="compile(jit_compile=True)")
    parser.add_argument("--steady-only", action="store_true", help="no process for each config")
    parser.add_argument("--name", default="steps", help="of the files in results/")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
