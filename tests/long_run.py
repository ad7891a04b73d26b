"""Trains 2,000 steps and tells memory, traces and times; run by test_long_run.py.

usage: long_run.py steps | models
"""

from __future__ import annotations

import gc
import json
import sys
import time

import nets
import numpy as np
import tf_keras as keras

import qat_round as qr

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


def make_models() -> dict:
    memory = []
    for _ in range(MODELS):
        model = nets.ready(qr.quantize_model(nets.dense_net(), "sine"))
        qr.calibrate(model, nets.vectors())
        nets.steps(model, nets.vectors(), np.arange(64) % 3, 1)
        del model
        keras.backend.clear_session()
        gc.collect()
        memory.append(resident_mb())
    alive = sum(isinstance(thing, keras.Model) for thing in gc.get_objects())
    return {"memory": memory, "alive": alive}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(train() if sys.argv[1] == "steps" else make_models()))
