"""What has no range of its own: averages on their input's grid, biases on that of their sums."""

from __future__ import annotations

from typing import Any

from qat_round._compat import is_exporting, keras, tf
from qat_round.numerics.accumulators import Given
from qat_round.numerics.fake_quant import fake_quant
from qat_round.numerics.graph_function import one_call
from qat_round.numerics.grid import Grid, native_fake_quant
from qat_round.numerics.integer_tensors import note_pending
from qat_round.numerics.requantize import half_away
from qat_round.numerics.tensor_info import GridNote, SumNote, note_grid
from qat_round.quantizers.observers import is_bypassed, quantize
from qat_round.quantizers.quantizer import RoundingQuantizer

_TIE = 1e-4  # averages are multiples of 1/n apart; floats of them are this near, in steps
_WIDE_TIE = 4e-3  # the same of 16-bit numbers


def on_noted_grid(
    y: tf.Tensor, grid: GridNote | None, training: Any, up: bool = False
) -> tf.Tensor:
    """An average of values on a grid, on the same grid; y itself where no grid is known.

    In a graph that is exported it is left as it is, with a note of its grid: the kernel rounds.

    Args:
        y: the average.
        grid: of the values.
        training: as everywhere.
        up: whether halves go up at inference, as in resizing, and not away from zero.
    """
    if grid is None or is_exporting():
        return note_grid(y, grid)
    average = AverageQuantizer(grid.quantizer, up)
    return quantize(average, y, training, grid.weights)


def held_in_float(y: tf.Tensor, whole: bool, ties: str = "") -> tf.Tensor:
    """What a float layer gives to integer ones, to be rounded as it goes to their grid.

    In a graph for the converter an operator that changes a last bit keeps the two apart: it would
    otherwise make integers of a float operator between two grids.

    Args:
        y: the float layer's output.
        whole: whether inference is computed in whole numbers.
        ties: how QUANTIZE rounds, as for `Given`.
    """
    if is_exporting():
        return tf.nn.leaky_relu(y, alpha=1.0 - 2.0**-24)
    return note_pending(tf.identity(y), Given(y, ties)) if whole else y


class AverageQuantizer:
    """Rounds averages of values on a quantizer's grid to that grid, as TFLite's kernels do.

        training:      the Rounder decides, as everywhere
        not training:  halves go away from zero, counted from the signed integer's zero

    Args:
        owner: the quantizer whose grid it is; it alone keeps the range.
        up: whether halves go up instead.
    """

    per_axis = False

    def __init__(self, owner: RoundingQuantizer, up: bool = False):
        self.owner, self.up = owner, up
        self.measure, self.bypassed, self.grid = owner.measure, owner.bypassed, owner.grid

    def train(self, x: tf.Tensor, weights: dict[str, Any]) -> tf.Tensor:
        """x on the owner's grid, by its Rounder; the range stays."""
        rounder, state = self.owner.rounder, self.owner.bound_state(weights)
        return fake_quant(x, self.grid(weights), rounder, **state)

    def infer(self, x: tf.Tensor, weights: dict[str, Any]) -> tf.Tensor:
        """x on the owner's grid, as the kernel rounds."""
        grid = self.grid(weights)
        rounded = (_half_up if self.up else _half_away)(tf.cast(x, tf.float32), grid)
        return tf.cast(native_fake_quant(rounded, grid), x.dtype)


def _half_away(y: tf.Tensor, grid: Grid) -> tf.Tensor:
    middle = 2.0 ** (grid.bits - 1)  # the signed integer's zero, as the fake-quant op counts
    signed = y / grid.step + (grid.zero_point - middle)
    tie = _TIE if grid.bits <= 8 else _WIDE_TIE
    return (half_away(signed, tie) - (grid.zero_point - middle)) * grid.step


def _half_up(y: tf.Tensor, grid: Grid) -> tf.Tensor:
    return tf.floor(y / grid.step + (0.5 + _TIE)) * grid.step


@keras.utils.register_keras_serializable(package="qat_round")
class GridClip(keras.layers.Layer):
    """Hands its input on; the fixed range of its quantizer clips it.

    Args:
        low, high: the ends, for when there is no quantizer.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, low: float, high: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.low, self.high = float(low), float(high)

    def call(self, inputs: Any) -> Any:
        if is_bypassed():
            return tf.clip_by_value(inputs, self.low, self.high)
        return tf.identity(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "low": self.low, "high": self.high}


def bias_slip(sums: SumNote, layer: Any = None) -> tf.Tensor | None:
    """What to add to sums so that their bias is a whole number of their steps, as in TFLite.

    Where a batch norm follows, its factor f and offset count: the file's bias is
    (bias - mean) f + beta, in steps of step |f|; the slip is divided by f, because it is added in
    front of the batch norm.

    Args:
        sums: the note on the layer's input, or on what it is about to compute.
        layer: the layer behind the sums, if it may be a batch norm.

    Returns:
        One value for each channel; None if there is no bias to round.
    """
    if isinstance(layer, keras.layers.BatchNormalization):
        factor, mean, beta = norm_constants(layer)
        offset = beta + (0.0 if sums.bias is None else sums.bias) * factor - mean * factor
        return tf.math.divide_no_nan(_slip(offset, sums.step * tf.abs(factor)), factor)
    return None if sums.bias is None else _slip(tf.convert_to_tensor(sums.bias), sums.step)


def _slip(bias: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    return tf.round(tf.math.divide_no_nan(bias, step)) * step - bias


def norm_constants(layer: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Factor, mean and beta of a batch norm in inference."""
    gamma = (layer.gamma,) if layer.scale else ()
    factor = one_call(_factor, layer.moving_variance, *gamma, epsilon=float(layer.epsilon))
    mean = tf.convert_to_tensor(layer.moving_mean)
    return factor, mean, tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros_like(mean)


def _factor(variance: tf.Tensor, gamma: tf.Tensor | float = 1.0, *, epsilon: float) -> tf.Tensor:
    return tf.math.rsqrt(variance + epsilon) * gamma
