"""The tables of the accuracy benchmark, from the log of its runs."""

from __future__ import annotations

import json
import os
import pathlib
import platform
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

import qat_round as qr

_COLUMNS = ("method", "seeds", "float", "exact", "as trained", "lowest", "file", "bytes", "steps")

INTRODUCTION = """\
# Accuracy at low bits

Made by `benchmarks.accuracy.run` from `accuracy.jsonl`, one line for each run. Percent of the test
inputs classified rightly, mean +- standard deviation over the seeds.

- exact: with `training=False`, after `qr.reestimate_batch_norm` over the training set; as trained:
  before it; lowest: the worst seed of exact.
- file: the int8-activation `.tflite` in the interpreter (activations below 8 bits lifted, and
  batch-norm statistics re-estimated in `with qr.lifted(model)`); bytes: its size;
  steps: its furthest logit from the Keras model so lifted, in output steps, all seeds.
- /slow: with weights that learn at the optimizer's own rate (`rate=1`), as all recipes had them
  before; w2a2/1 and w2a4/1: with learned ranges that move at rate 1, too.
- plain/other: the plain net, float nets trained on another machine, where the same seeds gave
  other weights; rows are to be compared within one section.
- A dash: that run wrote no file, or one whose statistics were not re-estimated.
- Differences are paired by seed; with few seeds an interval is wide, and one that holds 0 says that
  there is no difference beyond the seeds.
"""


def write_tables(log: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the Markdown page of all runs in a log."""
    every = [json.loads(line) for line in log.read_text().splitlines()]
    keys = ("data", "net", "method", "seed")
    rows = list({tuple(row[key] for key in keys): row for row in every}.values())  # the last counts
    lines = [INTRODUCTION, f"Machine: {machine()}. Versions: {versions()}.", ""]
    for data, net in sorted({(row["data"], row["net"]) for row in rows}):
        mine = [row for row in rows if (row["data"], row["net"]) == (data, net)]
        lines += [f"## {data}, {net} net", "", *_table(mine), "", *_differences(mine)]
    path.write_text("\n".join(lines) + "\n")


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(row["method"] for row in rows)
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" + "|--:" * (len(_COLUMNS) - 1) + "|"]
    for name in sorted(names):
        lines.append(_line(name, [row for row in rows if row["method"] == name]))
    return lines


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    cells = [name, str(len(rows))]
    cells += [_mean(row[key] for row in rows) for key in ("float", "exact", "as_trained")]
    cells += [f"{min(row['exact'] for row in rows):.1f}"]
    if all("file" in row for row in rows):
        cells += [_mean(row["file"] for row in rows), f"{max(row['bytes'] for row in rows):,}"]
        cells += [f"{max(row['furthest'] for row in rows):.0f}"]
    else:
        cells += ["-"] * 3
    return "| " + " | ".join(cells) + " |"


def _mean(values: Iterable[float]) -> str:
    found = list(values)
    spread = f" +- {np.std(found, ddof=1):.2f}" if len(found) > 1 else ""
    return f"{np.mean(found):.2f}{spread}"


def _differences(rows: list[dict[str, Any]]) -> list[str]:
    """Each method against `<bits> ste` or `<bits> recipe`, paired by seed."""
    lines = []
    for base in sorted({row["method"] for row in rows}):
        bits, _, word = base.partition(" ")
        if word not in ("ste", "recipe"):
            continue
        mine = {row["method"] for row in rows if row["method"].partition(" ")[0] == bits}
        for other in sorted(mine - {base}):
            lines += _difference(rows, base, other)
    return [*lines, ""] if lines else []


def _difference(rows: list[dict[str, Any]], base: str, other: str) -> list[str]:
    found = []
    for key in ("exact", "as_trained"):
        by = {(row["method"], row["seed"]): row[key] for row in rows}
        seeds = [s for m, s in by if m == base and (other, s) in by]
        if len(seeds) < 3:
            return []
        interval = qr.paired_difference([by[other, s] - by[base, s] for s in seeds])
        found.append(f"{key.replace('_', ' ')} {interval}")
    return [f"- {other} less {base}: {'; '.join(found)}"]


def machine() -> str:
    """Processor, cores, system."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def versions() -> str:
    """What ran."""
    parts = {"Python": platform.python_version(), "qat_round": qr.__version__}
    parts |= {"TensorFlow": tf.__version__, "tf-keras": keras.__version__, "NumPy": np.__version__}
    return ", ".join(f"{name} {version}" for name, version in parts.items())
