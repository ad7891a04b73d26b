"""Inference in whole numbers, as TFLite's kernels compute it, so that no rounding differs.

A tensor on a grid is whole numbers times a step. Products and sums of whole numbers are exact in
float32 (below 2^24), so that what a kernel accumulates is computed here without error, and rounded
by the very arithmetic of the kernel: XNNPACK's, which TFLite runs by default and which rounds once,
or that of other kernels (`kernel_sets`), which round twice. XNNPACK's:

    the model's input:            round_half_even(x * (1 / step))
    convolution, dense, product:  round_half_even(accumulator * (step_in step_w / step_out))
    mean, of raw levels:          round_half_away(sum / count * (step_in / step_out) + bias)
    another grid, leaky ReLU:     (a m + 128) >> 8,              m = 256 step_a / step_out
    sum, difference of two:       (a m_a + b m_b + half) >> shift,   m in 21 bits
"""

from __future__ import annotations

from typing import Any

from qat_round._compat import tf
from qat_round.numerics.accumulators import Clipped, Ints, Pending, Sums, held
from qat_round.numerics.graph_function import one_call
from qat_round.numerics.grid import WIDE_BITS, Grid
from qat_round.numerics.requantize import half_away

_INTS, _PENDING, _FUSED = "_qat_round_ints", "_qat_round_pending", "_qat_round_fused"


def on_wide_grid(x: tf.Tensor, grid: Grid) -> tf.Tensor:
    """x on a 16-bit grid around 0, by a division, as QUANTIZE does.

    The fake-quant op counts from the lowest level, which costs float32 its last bits.
    """
    lowest, highest = _qmin(grid) - grid.zero_point, grid.qmax - grid.zero_point
    return tf.clip_by_value(half_away(x / grid.step), lowest, highest) * grid.step


def note_ints(tensor: Any, ints: Ints) -> Any:
    """The tensor, with a note of its whole numbers."""
    setattr(tensor, _INTS, ints)
    return tensor


def noted_ints(tensor: Any) -> Ints | None:
    """The whole numbers of a tensor, if they were noted."""
    return getattr(tensor, _INTS, None)


def note_pending(tensor: Any, pending: Pending | None) -> Any:
    """The tensor, with a note of what it is before it is rounded."""
    if pending is not None:
        setattr(tensor, _PENDING, pending)
    return tensor


def noted_pending(tensor: Any) -> Pending | None:
    """What a tensor is before it is rounded, if that was noted."""
    return getattr(tensor, _PENDING, None)


def note_fused(tensor: Any, sums: Sums) -> Any:
    """The tensor, with a note of the sums that the file computes anew for a ReLU behind it."""
    setattr(tensor, _FUSED, sums)
    return tensor


def noted_fused(tensor: Any) -> Sums | None:
    """The sums that a ReLU behind a tensor is computed from, if not from the tensor."""
    return getattr(tensor, _FUSED, None)


def rounded(pending: Pending, grid: Grid) -> tf.Tensor:
    """Sums on a grid, as the kernel rounds them, with a note of their whole numbers."""
    settings = {"qmin": _qmin(grid), "qmax": grid.qmax}
    ends = one_call(_ends, grid.zero_point, grid.lo, grid.hi, **settings)
    if isinstance(pending, Clipped):  # of two clips in a row one is enough
        ends = [tf.clip_by_value(end, *ends) for end in pending.ends(grid.step)]
        pending = pending.of
    levels = held(pending.levels(grid.step), *ends)
    return note_ints(levels * grid.step, Ints(levels, grid.step, grid.bits))


def _qmin(grid: Grid) -> int:
    """The lowest level; a 16-bit grid leaves it out, but the file's integers have it."""
    return grid.qmin - int(grid.bits == WIDE_BITS and grid.narrow_range)


def _ends(zero_point: Any, lo: Any, hi: Any, qmin: int, qmax: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The lowest and the highest level of a grid, counted from its zero."""
    lowest = qmin - zero_point
    return lowest, tf.where(hi > lo, qmax - zero_point, lowest)  # the range (0, 0) holds 0 alone
