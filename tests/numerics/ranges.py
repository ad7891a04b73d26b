"""Random ranges."""

from __future__ import annotations

import numpy as np


def random_ranges(size, seed=0):
    """Ranges of all magnitudes that hold 0, some of them one-sided."""
    rng = np.random.default_rng(seed)
    lo, hi = -(10 ** rng.uniform(-3, 3, size)), 10 ** rng.uniform(-3, 3, size)
    lo, hi = np.where(rng.random(size) < 0.1, 0, lo), np.where(rng.random(size) < 0.1, 0, hi)
    hi = np.where((lo == 0) & (hi == 0), 1.0, hi)
    return lo.astype(np.float32), hi.astype(np.float32)
