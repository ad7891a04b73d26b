"""Writes benchmarks/results/peers.md from peers.jsonl and our own rows in accuracy.jsonl.

python -m benchmarks.peers.table
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"
BITS = ("w4a4", "w3a3", "w2a4", "w2a2")
INTRODUCTION = """\
# Peers at low bits

Made by `make bench-peers`: MNIST-5k, the plain net of `benchmarks.accuracy`, the same float
weights, split, epochs, optimizer and rates for all; each tool in an environment of its own, by its
own advice (`benchmarks/peers/`, a script and a requirements file for each). Hard-quantized test
accuracy in percent, mean +- standard deviation over the seeds, as the tool leaves the model; in
brackets with batch-norm statistics recomputed exactly over the training set, which of these tools
only qat_round does by itself (`qr.reestimate_batch_norm`): its own figure is the one in brackets.
MCT folds batch norm first. Input and logits have 8 bits, but with TFMOT's scheme, which has one
width for all.
"""


def ours(seeds: set[int]) -> list[dict[str, Any]]:
    """The recipes' rows of the same seeds, in the form of a peer's."""
    rows = map(json.loads, (RESULTS / "accuracy.jsonl").read_text().splitlines())
    mine = [r for r in rows if (r["data"], r["net"]) == ("mnist5k", "plain")]
    return [
        {"peer": "qat_round, recipe", "bits": r["method"], **r}
        for r in mine
        if r["method"] in BITS and r["seed"] in seeds
    ]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each tool, one column for each pair of bits."""
    lines = [f"| tool | seeds | {' | '.join(BITS)} |", "|---" + "|--:" * (1 + len(BITS)) + "|"]
    for peer in dict.fromkeys(row["peer"] for row in rows):
        mine = [row for row in rows if row["peer"] == peer]
        cells = [_cell([row for row in mine if row["bits"] == bits]) for bits in BITS]
        seeds = len({row["seed"] for row in mine})
        lines.append(f"| {peer} | {seeds} | {' | '.join(cells)} |")
    return lines


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "-"
    trained = [row["as_trained"] for row in rows]
    spread = f"+-{np.std(trained, ddof=1):.1f}" if len(trained) > 1 else ""
    return f"{np.mean(trained):.1f}{spread} [{np.mean([row['exact'] for row in rows]):.1f}]"


def main() -> int:
    """Reads the two logs, writes the page."""
    lines = (RESULTS / "peers.jsonl").read_text().splitlines()
    peers = [json.loads(line) for line in lines]
    rows = peers + ours({row["seed"] for row in peers})
    (RESULTS / "peers.md").write_text("\n".join([INTRODUCTION, *table(rows), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
