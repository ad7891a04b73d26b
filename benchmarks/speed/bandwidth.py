"""The machine's memory: how fast a copy, a loop that stores, and a reduction go through it.

    python -m benchmarks.speed.bandwidth

A large copy writes past the cache. A loop's store first reads the line that it writes, so that
reading x and writing y moves twelve bytes a value, not eight. Compilers, XLA's too, make such
loops; the difference is what a kernel can be away from the copy's limit without being slow.
"""

from __future__ import annotations

import argparse
import multiprocessing.pool
import os
from typing import Any

import numpy as np

from benchmarks.timing import interleaved, save

TITLE = "Memory: GB/s on all cores, each value's bytes counted once read and once written"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=float, default=1e8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--name", default="bandwidth", help="of the files in results/")
    arguments = parser.parse_args()
    rows = measure(int(arguments.values), arguments.rounds)
    print(save(arguments.name, TITLE, rows))


def measure(size: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each way through memory."""
    cores = os.cpu_count() or 1
    x, y = (np.array_split(np.ones(size, np.float32), cores) for _ in range(2))
    ways = {  # bytes a value, and what one thread does
        "copy": (8, lambda into, of: np.copyto(into, of)),
        "y = x + 1, a loop": (8, lambda into, of: np.add(of, 1.0, out=into)),
        "max(x)": (4, lambda into, of: of.max()),
    }
    with multiprocessing.pool.ThreadPool(cores) as pool:
        pairs = list(zip(y, x, strict=True))
        functions = {
            way: (lambda run=run: pool.starmap(run, pairs)) for way, (_, run) in ways.items()
        }
        times = interleaved(functions, rounds, seconds=0.0)
    return [
        {"way": way, "time": str(times[way]), "GB/s": width * size / times[way].median / 1e9}
        for way, (width, _) in ways.items()
    ]


if __name__ == "__main__":
    main()
