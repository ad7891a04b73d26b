"""Writes the weights of `accuracy.run`'s float nets to where the peers read them.

python -m benchmarks.peers.float_weights --seeds 3
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import numpy as np

from benchmarks.accuracy.run import float_net

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main() -> int:
    """Trains the float nets that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    folder = ROOT / "artifacts" / "float_nets"
    for seed in range(parser.parse_args().seeds):
        net = float_net("mnist5k", "plain", seed, folder)
        np.savez(folder / f"mnist5k-plain-{seed}.npz", *net.get_weights())
    return 0


if __name__ == "__main__":
    sys.exit(main())
