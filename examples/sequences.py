"""Text, speech, a sensor: a transformer, an LSTM, a 1-D convolutional net, float to `.tflite`.

    python examples/sequences.py                       # all three
    python examples/sequences.py --nets lstm --seeds 3

words: naming the language of a word out of five (`wordfreq`), by two transformer blocks.
vowels: naming one of nine speakers by two vowels (JapaneseVowels in `sktime`), by an LSTM.
power: summer or winter from a day's electric demand (ItalyPowerDemand in `sktime`), by Conv1D.

Each is trained in float, quantized to 8 bits, calibrated, fine-tuned, exported and run in the
interpreter on the whole test set. Writes <out>/sequences.md and .json, and the files.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sktime.datasets import load_italy_power_demand, load_japanese_vowels
from wordfreq import top_n_list

import qat_round as qr  # before TensorFlow: TFMOT needs tf.keras to be Keras 2

import tensorflow as tf  # isort: skip
import tf_keras as keras  # isort: skip

LANGUAGES = ("en", "de", "fr", "es", "fi")
WORDS, LETTERS, STEPS = 6000, 12, 16
COLUMNS = ("net", "float %", "Keras %", "TFLite %", "change", "same", "within 1", "furthest")
COLUMNS = (*COLUMNS, "integer operators", "bytes")
layers = keras.layers


class Data(NamedTuple):
    """Inputs and labels of training and test."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Task(NamedTuple):
    """A net, its data, and how long both are trained."""

    data: Callable[[], Data]
    net: Callable[[Data], Any]
    epochs: int
    fine_tuning: int


def words() -> Data:
    """Words of 4 to 12 letters that one language alone has among its most frequent, as numbers."""
    lists = [top_n_list(language, WORDS) for language in LANGUAGES]
    counts: dict[str, int] = {}
    for word in (w for found in lists for w in set(found)):
        counts[word] = counts.get(word, 0) + 1
    pairs = [
        (word, label)
        for label, found in enumerate(lists)
        for word in found
        if counts[word] == 1 and word.isalpha() and 4 <= len(word) <= LETTERS
    ]
    alphabet = {letter: i + 1 for i, letter in enumerate(sorted({c for w, _ in pairs for c in w}))}
    x = np.zeros((len(pairs), LETTERS), np.int32)
    for row, (word, _) in zip(x, pairs, strict=True):
        row[: len(word)] = [alphabet[letter] for letter in word]
    return _split(x, np.array([label for _, label in pairs]))


def _split(x: np.ndarray, y: np.ndarray) -> Data:
    order = np.random.RandomState(0).permutation(len(x))
    test = len(x) // 5
    x, y = x[order], y[order]
    return Data(x[test:], y[test:], x[:test], y[:test])


def vowels() -> Data:
    """Twelve cepstral coefficients over time, brought to 16 steps."""
    parts = []
    for split in ("train", "test"):
        frame, names = load_japanese_vowels(split=split, return_type="nested_univ")
        parts += [np.stack([_of_length(row) for row in frame.to_numpy()]), names.astype(int) - 1]
    return Data(*parts)


def _of_length(channels: Any) -> np.ndarray:
    series = [np.asarray(channel, np.float32) for channel in channels]
    places = np.linspace(0.0, len(series[0]) - 1.0, STEPS)
    return np.stack([np.interp(places, np.arange(len(s)), s) for s in series], -1).astype("float32")


def power() -> Data:
    """24 hours of demand."""
    parts = []
    for split in ("train", "test"):
        x, names = load_italy_power_demand(split=split, return_type="numpy3D")
        parts += [x.transpose(0, 2, 1).astype(np.float32), names.astype(int) - 1]
    return Data(*parts)


def transformer(data: Data, width: int = 32, heads: int = 4, blocks: int = 2) -> Any:
    """An embedding, a convolution that tells places apart, blocks of attention and gelu."""
    letters = keras.Input((LETTERS,), dtype="int32", name="letters")
    x = layers.Embedding(int(data.x.max()) + 1, width)(letters)
    x = layers.Conv1D(width, 3, padding="same")(x)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(letters, layers.Dense(len(LANGUAGES), name="language")(x))


def lstm(data: Data) -> Any:
    """One LSTM, and a dense layer on its last state."""
    series = keras.Input(data.x.shape[1:], name="coefficients")
    return keras.Model(series, layers.Dense(9, name="speaker")(layers.LSTM(32)(series)))


def conv(data: Data) -> Any:
    """Three convolutions along time, each with a batch norm."""
    x = series = keras.Input(data.x.shape[1:], name="demand")
    for filters, stride in ((16, 1), (32, 2), (32, 2)):
        x = layers.Conv1D(filters, 5, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(series, layers.Dense(2, name="season")(layers.GlobalAveragePooling1D()(x)))


TASKS = {
    "transformer": Task(words, transformer, 10, 2),
    "lstm": Task(vowels, lstm, 60, 20),
    "conv": Task(power, conv, 60, 10),
}


def fit(model: Any, data: Data, rate: float, epochs: int) -> None:
    """Adam, its rate on a cosine down to 0."""
    steps = epochs * -(-len(data.x) // 64)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    model.fit(data.x, data.y, batch_size=64, epochs=epochs, verbose=0)


def accuracy(logits: Any, labels: np.ndarray) -> float:
    """In percent."""
    return 100.0 * float(np.mean(np.argmax(logits, -1) == labels))


def run(name: str, seed: int, out: pathlib.Path) -> dict[str, Any]:
    """One net from float to its file, and what became of it."""
    task = TASKS[name]
    keras.utils.set_random_seed(seed)
    data = task.data()
    net = task.net(data)
    fit(net, data, 3e-3, task.epochs)
    floating = accuracy(net.predict(data.x_test, verbose=0), data.y_test)
    model = qr.quantize_model(net)
    qr.calibrate(model, data.x[:512])
    fit(model, data, 3e-4, task.fine_tuning)
    tflite = qr.export_tflite(model, out / f"{name}.tflite")
    parity = qr.verify_tflite(model, tflite, data.x_test)
    file = accuracy(logits_of(tflite, data.x_test), data.y_test)
    kept = accuracy(model.predict(data.x_test, verbose=0), data.y_test)
    output = parity.outputs[0]
    floats = sum(parity.float_operators.values())
    found = (floating, kept, file, file - floating, 100.0 * output.same, 100.0 * parity.within_one)
    whole = f"all but {floats}" if floats else "all"
    return dict(zip(COLUMNS, (name, *found, output.max_steps, whole, len(tflite)), strict=True))


def logits_of(tflite: bytes, x: np.ndarray) -> np.ndarray:
    """The file's outputs, one batch of all."""
    interpreter = tf.lite.Interpreter(model_content=tflite)
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    (answer,) = runner(**{name: x}).values()
    return answer


def main() -> int:
    """Writes the table; status 1 if an operator is in float or a file loses over a point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("artifacts/sequences"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [run(n, seed, arguments.out) for n in arguments.nets for seed in range(arguments.seeds)]
    table = Table(*COLUMNS)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = [f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    Console(width=120).print(table)
    versions = {"python": platform.python_version(), "tensorflow": tf.__version__}
    report = {"versions": versions, "machine": platform.processor(), "rows": rows}
    (arguments.out / "sequences.json").write_text(json.dumps(report, indent=2))
    (arguments.out / "sequences.md").write_text("\n".join(lines) + "\n")
    good = all(row["change"] >= -1.0 and row["integer operators"] == "all" for row in rows)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
