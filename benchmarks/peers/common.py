"""What all peers share: the net, its float weights, the protocol of `accuracy.run`, and the log.

Each peer runs in an environment of its own (its requirements file), without qat_round, and starts
from the float weights that `float_weights.py` wrote: the very nets that `accuracy.run` quantizes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.accuracy.data import Data, mnist5k

ROOT = pathlib.Path(__file__).resolve().parents[2]

BITS = {"w4a4": (4, 4), "w3a3": (3, 3), "w2a4": (2, 4), "w2a2": (2, 2)}
CALIBRATION, BATCH, EPOCHS, RATE = 512, 64, 8, 1e-3
FILTERS_AND_STRIDES = ((16, 2), (32, 2), (32, 1))
WEIGHTS = ROOT / "artifacts" / "float_nets"
LOG = ROOT / "benchmarks" / "results" / "peers.jsonl"

Run = Callable[[list[np.ndarray], tuple[int, int], Data], dict[str, Any]]
"""Gives accuracies from (float weights in Keras's order, bits of weights and activations, data)."""


def float_net(keras: Any, weights: list[np.ndarray]) -> Any:
    """The plain net of `accuracy.nets` in the given Keras, with its trained weights."""
    layers = keras.layers
    inputs = x = keras.Input((28, 28, 1))
    for filters, strides in FILTERS_AND_STRIDES:
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    model.set_weights(weights)
    return model


def fine_tune(keras: Any, model: Any, data: Data) -> Any:
    """Eight epochs of Adam, its rate falling from 1e-3 to 0 along half a cosine wave."""
    steps = EPOCHS * -(-len(data.train) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(data.train, data.train_labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def accuracy(model: Any, data: Data) -> float:
    """Percent of the test images classified rightly."""
    logits = model.predict(data.test, batch_size=250, verbose=0)
    return round(100.0 * float(np.mean(logits.argmax(1) == data.test_labels)), 3)


def with_exact_statistics(keras: Any, model: Any, data: Data) -> Any:
    """The model, each batch norm with mean and variance over the whole training set, in turn.

    No peer does so by itself: it shows what of a peer's loss is due to batch norm's statistics.
    """
    for layer in model.layers:
        norm = getattr(layer, "layer", layer)
        if isinstance(norm, keras.layers.BatchNormalization):
            before = keras.Model(model.input, layer.input)
            seen = before.predict(data.train, batch_size=250, verbose=0)
            norm.moving_mean.assign(seen.mean((0, 1, 2)))
            norm.moving_variance.assign(seen.var((0, 1, 2)))
    return model


def main(peer: str, seeded: Callable[[int], None], run: Run) -> int:
    """Runs what is not in the log yet, and adds a line for each.

    Args:
        peer: its name, with its version.
        seeded: sets the framework's seeds.
        run: see `Run`.
    """
    parser = argparse.ArgumentParser(description=f"{peer}: accuracy at low bits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", nargs="*", choices=BITS, default=list(BITS))
    args = parser.parse_args()
    lines = LOG.read_text().splitlines() if LOG.exists() else []
    done = {(row["peer"], row["bits"], row["seed"]) for row in map(json.loads, lines)}
    data = mnist5k()
    for seed in range(args.seeds):
        weights = list(np.load(WEIGHTS / f"mnist5k-plain-{seed}.npz").values())
        for bits in args.bits:
            if (peer, bits, seed) in done:
                continue
            seeded(seed + 100)
            began = time.perf_counter()
            row = {"peer": peer, "bits": bits, "seed": seed, **run(weights, BITS[bits], data)}
            row["seconds"] = round(time.perf_counter() - began, 1)
            with LOG.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    return 0
