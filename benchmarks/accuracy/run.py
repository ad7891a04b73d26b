"""Hard-quantized accuracy: what bits, ranges, rounders and the rest of a recipe are worth.

    python -m benchmarks.accuracy.run recipes            # every recipe, five seeds, MNIST-5k
    python -m benchmarks.accuracy.run rounders --seeds 10
    python -m benchmarks.accuracy.run ablation
    python -m benchmarks.accuracy.run recipes --data digits --net separable

Adds each run to benchmarks/results/accuracy.jsonl as soon as it is done, leaves out runs that are
there already, and writes benchmarks/results/accuracy.md from all of them. Protocol: a float net of
15 epochs (Adam 5e-3, cosine to 0, batch 64); its copy is quantized, calibrated on 512 inputs and
trained for 8 epochs (Adam 1e-3, cosine to 0); other data sets take as many steps as MNIST-5k does,
so more epochs where they are smaller. Accuracy on the test split with training=False: as
trained, with exact batch-norm statistics, and of the file in the interpreter.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

import qat_round as qr
from benchmarks.accuracy.data import DATA, Data
from benchmarks.accuracy.methods import SUITES, Method
from benchmarks.accuracy.nets import NETS
from benchmarks.accuracy.tables import write_tables
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile

import tf_keras as keras  # isort: skip

RESULTS = pathlib.Path(__file__).parents[1] / "results"
CALIBRATION, BATCH = 512, 64
FLOAT_EPOCHS, FLOAT_RATE, EPOCHS, RATE = 15, 5e-3, 8, 1e-3


def float_net(data_name: str, net: str, seed: int, cache: pathlib.Path) -> keras.Model:
    """The float net of a seed, trained once and kept."""
    path = cache / f"{data_name}-{net}-{seed}.keras"
    if not path.exists():
        data = DATA[data_name]()
        keras.utils.set_random_seed(seed)
        epochs = data.epochs(FLOAT_EPOCHS)
        model = trained(NETS[net](data), data.train, data.train_labels, epochs, FLOAT_RATE)
        cache.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return keras.models.load_model(path, compile=False)


def trained(
    model: keras.Model, x: np.ndarray, y: Any, epochs: int, rate: float, callbacks: Any = ()
) -> keras.Model:
    """The model, trained with Adam and a rate that falls to 0 along half a cosine wave."""
    steps = epochs * -(-len(x) // BATCH)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def run(
    data: Data, original: keras.Model, method: Method, seed: int, with_file: bool
) -> dict[str, Any]:
    """Quantizes, calibrates, trains and evaluates once; accuracies in percent."""
    keras.utils.set_random_seed(seed + 100)
    began = time.perf_counter()
    model = qr.quantize_model(original, recipe=method.recipe)
    qr.calibrate(model, data.train[:CALIBRATION], method=method.recipe["calibrate"])
    learner = model
    if method.distil:
        learner = qr.Distiller(model, original, **method.distil)
    epochs = data.epochs(EPOCHS)
    callbacks = method.callbacks(model, data, epochs * -(-len(data.train) // BATCH))
    trained(learner, data.train, data.train_labels, epochs, RATE, callbacks)
    found = {"as_trained": accuracy(model, data)}
    qr.reestimate_batch_norm(model, data.train)
    found["exact"] = accuracy(model, data)
    found["seconds"] = round(time.perf_counter() - began, 1)
    return found | (in_file(model, data) if with_file else {})


def accuracy(model: keras.Model, data: Data) -> float:
    """Percent of the test inputs that the Keras model classifies rightly, training=False."""
    logits = model.predict(data.test, batch_size=250, verbose=0)
    return percent(logits, data)


def percent(logits: np.ndarray, data: Data) -> float:
    """Percent of the rows whose largest number is at the right class."""
    return round(100.0 * float(np.mean(logits.argmax(1) == data.test_labels)), 3)


def in_file(model: keras.Model, data: Data) -> dict[str, Any]:
    """Accuracy, bytes and furthest logit (in output steps) of the `.tflite`, lifted if need be."""
    with qr.lifted(model):  # finer levels shift the means: their own statistics
        qr.reestimate_batch_norm(model, data.train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that activations are lifted
        tflite = qr.export_tflite(model, io="int8", lift_activations=True)
    with qr.lifted(model):
        report = qr.verify_tflite(model, tflite, data.test)
    runner = Runner(TFLiteFile(tflite))
    (name,) = runner.inputs
    parts = [runner({name: data.test[at : at + 250]})[0] for at in range(0, len(data.test), 250)]
    logits = np.concatenate(parts)
    return {
        "file": percent(logits, data),
        "bytes": len(tflite),
        "furthest": float(report.outputs[0].max_steps),
    }


def todo(args: argparse.Namespace, done: set[tuple]) -> list[tuple[int, str, Method]]:
    """(seed, name, method) of what is not done yet, seed by seed."""
    every = [(s, n, m) for s in range(args.seeds) for n, m in SUITES[args.suite].items()]
    every = [job for job in every if not args.only or job[1] in args.only]
    return [job for job in every if (args.data, args.net, job[1], job[0]) not in done]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--data", choices=DATA, default="mnist5k")
    parser.add_argument("--net", choices=NETS, default="plain")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of methods")
    parser.add_argument("--no-files", dest="files", action="store_false", help="in Keras alone")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("artifacts/float_nets"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing, and writes the tables."""
    args = parse(argv)
    log = RESULTS / "accuracy.jsonl"
    log.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["data"], row["net"], row["method"], row["seed"]) for row in rows}
    data = DATA[args.data]()
    for seed, name, method in todo(args, done):
        original = float_net(args.data, args.net, seed, args.cache)
        row = {"data": args.data, "net": args.net, "method": name, "seed": seed}
        row |= {"float": accuracy(original, data), **run(data, original, method, seed, args.files)}
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
        keras.backend.clear_session()
    write_tables(log, RESULTS / "accuracy.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
