"""Grids that travel with tensors: what an operator that keeps its input's scale rounds to.

TFLite gives some operators no scale of their own: pooling, padding, reshaping and resizing keep
their input's. So a quantized tensor carries a note of the quantizer that made it (as Keras's masks
travel), layers that only move values pass the note on, and those that average round to its grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ._compat import is_exporting, tf
from .affine import fake_quant, native_fake_quant
from .quantizers import RoundingQuantizer, quantize

_TIE = 1e-4  # averages are multiples of 1/n apart; floats of them are this near, in steps
_NOTE = "_qat_round_grid"


class GridNote(NamedTuple):
    """The quantizer that made a tensor, and the layer weights of its state."""

    quantizer: RoundingQuantizer
    weights: dict[str, Any]


def note(tensor: Any, grid: GridNote | None) -> Any:
    """The tensor, with a note of the grid that its values are on."""
    if grid is not None and tf.is_tensor(tensor):
        setattr(tensor, _NOTE, grid)
    return tensor


def noted(inputs: Any) -> GridNote | None:
    """The grid of the first input that has a note."""
    notes = (getattr(tensor, _NOTE, None) for tensor in tf.nest.flatten(inputs))
    return next((grid for grid in notes if grid is not None), None)


def on_noted_grid(y: tf.Tensor, grid: GridNote | None, training: Any) -> tf.Tensor:
    """An average of values on a grid, on the same grid; y itself where no grid is known."""
    if grid is None:
        return y
    average = AverageQuantizer(grid.quantizer)
    return quantize(average, y, training, grid.weights)


class AverageQuantizer:
    """Rounds averages of values on a quantizer's grid to that grid, as TFLite's kernels do.

        training:      the Rounder decides, as everywhere
        not training:  halves go away from zero, counted from the signed integer's zero
    A graph that is exported has only the fake-quant op, which is what the converter reads; the
    kernel then does the rest.

    Args:
        owner: the quantizer whose grid it is; it alone keeps the range.
    """

    per_axis = False

    def __init__(self, owner: RoundingQuantizer):
        self.owner = owner
        self.measure, self.bypassed, self.grid = owner.measure, owner.bypassed, owner.grid

    def train(self, x: tf.Tensor, weights: dict[str, Any]) -> tf.Tensor:
        """x on the owner's grid, by its Rounder; the range stays."""
        rounder, state = self.owner.rounder, self.owner.bound_state(weights)
        return fake_quant(x, self.grid(weights), rounder, **state)

    def infer(self, x: tf.Tensor, weights: dict[str, Any]) -> tf.Tensor:
        """x on the owner's grid, as the kernel rounds."""
        exact, grid = tf.cast(x, tf.float32), self.grid(weights)
        if not is_exporting():
            exact = _half_away(exact, grid)
        return tf.cast(native_fake_quant(exact, grid), x.dtype)


def _half_away(y: tf.Tensor, grid: Any) -> tf.Tensor:
    middle = 2.0 ** (grid.bits - 1)  # the signed integer's zero, as the fake-quant op counts
    signed = y / grid.step + (grid.zero_point - middle)
    whole = tf.sign(signed) * tf.floor(tf.abs(signed) + (0.5 + _TIE))
    return (whole - (grid.zero_point - middle)) * grid.step
