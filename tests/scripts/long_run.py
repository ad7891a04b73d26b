"""Trains 2,000 steps and tells memory, traces and times; run by training/test_long_run.py.

usage: python -m tests.scripts.long_run steps | models | models-stock | models-float
"""

from __future__ import annotations

import gc
import json
import sys
import time

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from tests.models import nets

STEPS, MODELS = 2000, 20


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


class Meter(keras.callbacks.Callback):
    """Memory and time after every 50 steps, and how often the step was traced."""

    def __init__(self):
        super().__init__()
        self.memory: list[float] = []
        self.times: list[float] = []
        self.traces: list[int] = []

    def on_train_batch_end(self, batch, logs=None):
        if batch % 50 == 49:
            self.traces.append(self.model.train_function.experimental_get_tracing_count())
            gc.collect()
            self.memory.append(resident_mb())
            self.times.append(time.monotonic())


def train() -> dict:
    rows = nets.vectors(32 * 50)
    labels = rows[:, :3].argmax(-1)
    spec = qr.TensorSpec(rounder="sigmoid", range="learned")
    model = qr.quantize_model(nets.dense_net(), weights=spec, activations=spec)
    nets.ready(qr.calibrate(model, rows[:64]))
    meter, freeze = Meter(), qr.FreezeOscillating(momentum=0.02)
    anneal = qr.Anneal("slope", qr.schedules.cosine(5.0, 500.0, steps=STEPS))
    callbacks = [anneal, freeze, qr.QuantizationLog(inputs=rows[:32]), meter]
    epochs = STEPS // 50
    model.fit(rows, labels, batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks)
    return {"memory": meter.memory, "times": meter.times, "traces": meter.traces}


def train_one(kind: str) -> None:
    """One model of a kind, made and trained for a step; gone when it returns."""
    net = nets.dense_net()
    if kind == "models":
        net = qr.calibrate(qr.quantize_model(net, "sine"), nets.vectors())
    elif kind == "models-stock":
        net = tfmot.quantization.keras.quantize_model(net)
    nets.steps(nets.ready(net), nets.vectors(), np.arange(64) % 3, 1)


def make_models(kind: str) -> dict:
    memory = []
    for _ in range(MODELS):
        train_one(kind)
        keras.backend.clear_session()
        gc.collect()
        memory.append(resident_mb())
    alive = sum(isinstance(thing, keras.Model) for thing in gc.get_objects())
    return {"memory": memory, "alive": alive}


if __name__ == "__main__":
    what = sys.argv[1]
    sys.stdout.write(json.dumps(train() if what == "steps" else make_models(what)))
