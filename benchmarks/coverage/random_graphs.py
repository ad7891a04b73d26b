"""Sixty random graphs: integer-only, and how near the file is to Keras.

    python -m benchmarks.coverage.random_graphs             seeds 0 to 59
    python -m benchmarks.coverage.random_graphs 3 17        these seeds alone, printed and not saved

The graphs are those of tests/models/random_graphs.py, measured in one process.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.timing import save, table

SEEDS = range(60)
TITLE = "Random graphs: integer-only, and how near the file is to Keras"
NOTES = """\
Random weights, batch-norm statistics of the 64 inputs, which also calibrate; no training.
*intake differs by*: the flat model against the original, of the outputs' spread. *same %*,
*furthest*: all outputs of the file against the quantized Keras model, end to end, in output steps.
*operators furthest*: each operator fed with the interpreter's own inputs, against float arithmetic
on its output's grid, in steps. *first to part*: the first tensor that is more than a step off."""
_SLACK = 1.001  # a float comparison's slack, in steps


def main() -> None:
    seeds = [int(word) for word in sys.argv[1:]]
    rows = []
    for seed in seeds or SEEDS:
        rows.append(measured(seed))
        print(rows[-1], flush=True)
    verdict = summary(rows)
    if seeds:
        print(table(rows), verdict, sep="\n")
    else:
        print(save("random_graphs", TITLE, rows, f"{verdict}\n\n{NOTES}"))


def measured(seed: int) -> dict[str, Any]:
    """One graph's figures, or the error that ended it."""
    from tests.models.random_graphs import figures

    begin = time.perf_counter()
    try:
        found = figures(seed)
    except Exception as error:  # whatever it is, it is this row's result
        last = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
        found = {"error": last[:200].replace("|", "/")}
    return {"seed": seed, **found, "seconds": round(time.perf_counter() - begin, 1)}


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The verdict over all rows, in a sentence."""
    done = [row for row in rows if "error" not in row]
    whole = [row for row in done if not row["float operators"]]
    near = [row for row in done if row["furthest"] <= _SLACK]
    exact = [row for row in done if row["operators furthest"] <= _SLACK]
    values = sum(row["values"] for row in done)
    same = sum(row["values"] * row["same %"] for row in done) / max(values, 1)
    return (
        f"Of {len(rows)} graphs {len(done)} were quantized and exported, {len(whole)} of them "
        f"without a float operator; in {len(exact)} every operator is within one step of what it "
        f"should give for its own inputs, in {len(near)} every output is within one step of Keras "
        f"end to end. {same:.2f} % of the {values} outputs are the very same integer."
    )


if __name__ == "__main__":
    main()
