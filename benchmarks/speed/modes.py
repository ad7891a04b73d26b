"""The same training step by every way in which Keras and TensorFlow run one, ours beside stock.

    python -m benchmarks.speed.modes
    python -m benchmarks.speed.modes --nets mobilenet_v2_0.35 --rounds 9

A step of `fit` as it comes, compiled by XLA (`jit_compile=True`), operation by operation
(`run_eagerly=True`), eight steps a call (`steps_per_execution=8`), a `tf.function` of one's own,
and one whose gradients are the sum of two batches.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

from benchmarks.nets import NETS, images
from benchmarks.speed.steps import quantized_net
from benchmarks.timing import interleaved, runnable, save

CONFIGS = ("float", "stock", "ste, hard", "sine, soft", "ste, hard, learned")
BATCH, CALLED = 32, 8
COMPILED: dict[str, dict[str, Any]] = {  # mode -> what it asks of `compile`
    "fit": {},
    "jit_compile": {"jit_compile": True},
    "run_eagerly": {"run_eagerly": True},
    "steps_per_execution": {"steps_per_execution": CALLED},
}
OWN = {"tf.function": 1, "two batches a step": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["small"], choices=list(NETS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--name", default="modes", help="of the files in results/")
    arguments = parser.parse_args()
    rows = []
    for net in arguments.nets:
        for mode in [*COMPILED, *OWN]:
            rows += measure(net, mode, arguments.rounds)
            text = save(arguments.name, "Training steps, by the way they are run", rows)
    print(text)


def measure(net: str, mode: str, rounds: int) -> list[dict[str, Any]]:
    """One row for each config; what cannot be run at all says why."""
    steps, errors = runnable({c: functools.partial(_step, net, mode, c) for c in CONFIGS})
    times = interleaved(steps, rounds, seconds=0.0)
    parts = CALLED if mode == "steps_per_execution" else 1
    stock = times["stock"].median if "stock" in times else float("nan")
    rows = []
    for config in CONFIGS:
        row: dict[str, Any] = {"net": net, "mode": mode, "config": config}
        if config in errors:
            rows.append(row | {"ms a step": errors[config]})
            continue
        spent = times[config]
        row |= {"ms a step": 1e3 * spent.median / parts, "step / stock": spent.median / stock}
        row["least to most"] = f"{1e3 * spent.least / parts:.1f} to {1e3 * spent.most / parts:.1f}"
        rows.append(row)
    return rows


def _step(net: str, mode: str, config: str) -> Callable[[], Any]:
    import tensorflow as tf
    import tf_keras as keras

    model, loss = (
        quantized_net(net, config),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    data = tf.data.Dataset.from_tensor_slices(images(BATCH)).batch(BATCH).repeat()
    if mode in OWN:
        run = _own(model, loss, OWN[mode])
        batch = next(iter(data))
        return lambda: run(*batch)
    model.compile(keras.optimizers.SGD(1e-3), loss, **COMPILED[mode])
    run, iterator = model.make_train_function(), iter(data)
    return lambda: run(iterator)


def _own(model: Any, loss: Any, batches: int) -> Callable[..., Any]:
    """A step of one's own whose gradients are those of so many batches."""
    import tensorflow as tf
    import tf_keras as keras

    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function
    def run(x: Any, y: Any) -> Any:
        sums: list[Any] = []
        for _ in range(batches):
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
            found = tape.gradient(value, model.trainable_variables)
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        optimizer.apply_gradients(zip(sums, model.trainable_variables, strict=True))
        return value

    return run


if __name__ == "__main__":
    main()
