"""Learned rounding without labels against nearest rounding: 512 inputs, no training.

    python -m benchmarks.accuracy.adaround                              # MNIST-5k, all four nets
    python -m benchmarks.accuracy.adaround --data tumours --nets mlp

Weights of 3 and 4 bits (the levels and steps of the recipes w3a3 and w4a8: least squared error for
each channel), activations of 8, calibrated on the 512 inputs. The same calibrated model is
evaluated as it is, then after `qr.adaround` on these inputs; batch norm's statistics once as the
float net has them, once re-estimated on the 512 inputs, in both. Adds each run to
benchmarks/results/adaround.jsonl, leaves out what is there, writes adaround.md beside it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import qat_round as qr
from benchmarks.accuracy.data import DATA, Data
from benchmarks.accuracy.methods import recipe
from benchmarks.accuracy.nets import NETS
from benchmarks.accuracy.run import CALIBRATION, RESULTS, accuracy, float_net
from benchmarks.accuracy.tables import machine, versions

import tf_keras as keras  # isort: skip

METHODS = {3: recipe("w4a8", weights={"bits": 3, "narrow_range": False}), 4: recipe("w4a8")}
COLUMNS = ("data", "net", "weight bits", "seeds", "float", "nearest", "adaround", "difference")


def run(data: Data, original: keras.Model, bits: int, seed: int) -> dict[str, Any]:
    """Percent right by nearest and by learned rounding, statistics kept and re-estimated."""
    keras.utils.set_random_seed(seed + 100)
    x = data.train[:CALIBRATION]
    model = qr.quantize_model(original, recipe=METHODS[bits].recipe)
    qr.calibrate(model, x, method="mse")
    calibrated = model.get_weights()
    found = {"nearest": accuracy(model, data)}
    qr.reestimate_batch_norm(model, x)
    found["nearest_exact"] = accuracy(model, data)
    model.set_weights(calibrated)
    began = time.perf_counter()
    qr.adaround(model, x, seed=seed)
    found["seconds"] = round(time.perf_counter() - began, 1)
    found["adaround"] = accuracy(model, data)
    qr.reestimate_batch_norm(model, x)
    found["adaround_exact"] = accuracy(model, data)
    return found


def write_table(log: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the Markdown page of all runs in a log."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    lines = ["# Rounding without training", ""]
    lines += [
        "Made by `benchmarks.accuracy.adaround`. Percent of the test inputs right, mean over seeds;"
    ]
    lines += ["the difference, adaround less nearest, paired by seed, with its 95 % interval.", ""]
    lines += [f"Machine: {machine()}. Versions: {versions()}.", ""]
    for end, title in (("", "as the float net has them"), ("_exact", "re-estimated in both")):
        lines += [f"## Batch norm's statistics {title}", "", f"| {' | '.join(COLUMNS)} |"]
        lines += ["|---|---" + "|--:" * (len(COLUMNS) - 2) + "|"]
        lines += [_line(key, rows, end) for key in sorted({_key(row) for row in rows})] + [""]
    path.write_text("\n".join(lines))


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["data"], row["net"], row["bits"]


def _line(key: tuple[str, str, int], rows: list[dict[str, Any]], end: str) -> str:
    mine = [row for row in rows if _key(row) == key]
    means = [
        np.mean([row[k] for row in mine]) for k in ("float", "nearest" + end, "adaround" + end)
    ]
    gains = [row["adaround" + end] - row["nearest" + end] for row in mine]
    difference = str(qr.paired_difference(gains)) if len(gains) > 1 else f"{gains[0]:+.2f}"
    cells = [*map(str, key), str(len(mine)), *(f"{mean:.2f}" for mean in means), difference]
    return f"| {' | '.join(cells)} |"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, default="mnist5k")
    parser.add_argument(
        "--nets", nargs="*", choices=NETS, default=["plain", "separable", "residual", "mlp"]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("artifacts/float_nets"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing, and writes the table."""
    args = parse(argv)
    log = RESULTS / "adaround.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    done = {(*_key(row), row["seed"]) for row in map(json.loads, lines)}
    data = DATA[args.data]()
    for seed, net, bits in (
        (s, n, b) for s in range(args.seeds) for n in args.nets for b in METHODS
    ):
        if (args.data, net, bits, seed) in done:
            continue
        original = float_net(args.data, net, seed, args.cache)
        row = {"data": args.data, "net": net, "bits": bits, "seed": seed}
        row |= {"float": accuracy(original, data), **run(data, original, bits, seed)}
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
        keras.backend.clear_session()
    write_table(log, RESULTS / "adaround.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
