"""Random small models through the whole chain: equal in intake, integers in the file, near Keras.

usage: python tools/fuzz_models.py [--seconds 60] [--seed 0]

The graphs are those of tests/models/random_graphs.py, with fewer tensors. A model that is refused
with an error for a person is counted as such. A failure is any other error, an operator in float,
an operator more than one step from what it should give for its own inputs, or an output further
than LIMIT steps from Keras. Prints cases, failures and seeds; exits 1 if there are failures.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import sys
import time
import warnings

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

ONE, LIMIT = 1.001, 3.001  # steps, with the slack of a float comparison
SIZES = (2, 6)  # tensors: from, and below


def verdict(seed: int) -> tuple[str, str]:
    """ "near", "refused" or "failed", and what was wrong."""
    from tests.models.random_graphs import figures

    try:
        found = figures(seed, SIZES)
    except (ValueError, TypeError) as error:
        return "refused", str(error)[:200]
    except Exception as error:
        return "failed", f"{type(error).__name__}: {str(error)[:200]}"
    wrong = [
        f"{what}: {found[what]}"
        for what, is_right in (
            ("intake differs by", found["intake differs by"] <= 1e-5),
            ("float operators", not found["float operators"]),
            ("operators furthest", found["operators furthest"] <= ONE),
            ("furthest", found["furthest"] <= LIMIT),
        )
        if not is_right
    ]
    near = "near" if found["furthest"] <= ONE else "within 3 steps"
    return ("failed", "; ".join(wrong)) if wrong else (near, "")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    ends, seed = time.monotonic() + asked.seconds, asked.seed
    while time.monotonic() < ends or seed == asked.seed:
        found, why = verdict(seed)
        counts[found] += 1
        if why:
            print(f"{found.upper()} model seed {seed}: {why}", flush=True)
        seed += 1
    print(f"models: {sum(counts.values())} cases, {dict(counts)}")
    print(f"seeds {asked.seed} to {seed - 1}; {counts['failed']} failures")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
