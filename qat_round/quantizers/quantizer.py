"""The TFMOT `Quantizer`: a Range, a Grid, a Rounder, and layer weights that hold their state."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qat_round._compat import Quantizer, is_converting, is_exporting, keras, tf
from qat_round.numerics.fake_quant import fake_quant
from qat_round.numerics.graph_function import one_call
from qat_round.numerics.grid import (
    _TENSORS,
    STORED_BITS,
    WIDE_BITS,
    Grid,
    _grid_tensors,
    check_bits,
    constant_fake_quant,
    native_fake_quant,
    stored_grid,
    with_a_width,
)
from qat_round.numerics.integer_tensors import noted_pending, on_wide_grid, rounded
from qat_round.quantizers.learned_ranges import Learned, Pact
from qat_round.quantizers.lsq_gradients import Batch
from qat_round.quantizers.observers import quantize
from qat_round.quantizers.ranges import FIRST_GUESS, Fixed, Range, get_range, measure, replicas
from qat_round.quantizers.weight_lr_scale import checked_rate, remember
from qat_round.rounding import Rounder, get

LEARNING = (Learned, Pact)
_CALIBRATED = 1e6  # counts as so many batches seen


@keras.utils.register_keras_serializable(package="qat_round")
class RoundingQuantizer(Quantizer):
    """Fake-quantizes a tensor: a Rounder decides while training, TensorFlow's op otherwise.

    Use it wherever TFMOT takes a `Quantizer`, such as in a `QuantizeConfig` of your own.

        training:      the range follows the data, then y = R(v) step + lo   (see `fake_quant`)
        not training:  y = tf.quantization.fake_quant_with_min_max_vars(x, lo, hi)

    Args:
        bits: 2 to 16.
        rounder: what `qr.get` takes.
        range: "last_value", "moving_average", "all_values", "fixed", "learned", "pact", or a
            `qr.ranges.Range`.
        symmetric: keep 0 in the middle of the grid.
        per_axis: one grid for each channel instead of one for the tensor.
        narrow_range: leave out the lowest level.
        axis: the channels' axis when `per_axis`; several trailing axes, as of a depthwise kernel,
            count as one.
        as_constant: put inference values on the grid by plain arithmetic instead of the fake-quant
            op. TFLite's converter folds that into a constant and finds the same integers again, per
            channel too, where it cannot read the op (8-bit Dense, 1-D and transposed convolutions).
        off_ties: lower the end of a range whose 0 lies midway between two levels, as that of -1..1
            does: evenly spaced values (pixels) would land on halves there, which Keras and TFLite
            round by their last bits.
        rate: how many steps of the optimizer one step is to be, for weights; see `weight_lr_scale`.

    Raises:
        ValueError: for bits outside of 2..16, an unknown rounder or range, or a rate that is not
            positive and finite.

    Example:
        >>> quantizer = RoundingQuantizer(4, "sine", range="last_value")
        >>> layer = keras.layers.Layer()
        >>> weights = quantizer.build((3,), "x", layer)
        >>> quantizer(tf.constant([0.0, 0.5, 15.0]), True, weights).numpy().round(4).tolist()
        [0.0, 0.5, 15.0]
        >>> quantizer(tf.constant([0.0, 0.6, 15.0]), False, weights).numpy().tolist()
        [0.0, 1.0, 15.0]
    """

    is_for_weights: ClassVar[bool] = False  # else told from what it is given

    def __init__(
        self,
        bits: int = 8,
        rounder: Any = "ste",
        range: Any = "last_value",  # noqa: A002
        symmetric: bool = False,
        per_axis: bool = False,
        narrow_range: bool = False,
        axis: int | Sequence[int] = -1,
        as_constant: bool = False,
        off_ties: bool = False,
        rate: float = 1.0,
    ):
        self.bits = check_bits(bits)
        self.rounder: Rounder = get(rounder)
        self.range: Range = get_range(range)
        self.symmetric = bool(symmetric)
        self.per_axis = bool(per_axis)
        self.narrow_range = bool(narrow_range)
        self.axis = axis if isinstance(axis, int) else tuple(axis)
        self.as_constant = bool(as_constant)
        self.off_ties = bool(off_ties)
        self.rate = checked_rate(rate, self)

    @property
    def grid_axis(self) -> int | None:
        """The channels' axis (of the tensor as it is quantized), or None for one grid."""
        if not self.per_axis:
            return None
        return self.axis if isinstance(self.axis, int) else -1

    @property
    def levels(self) -> int:
        """How many steps its grid has from end to end."""
        return 2**self.bits - 1 - int(self.narrow_range)

    @property
    def is_wide(self) -> bool:
        """Whether the grid is that of TFLite's int16 activations."""
        return self.bits == WIDE_BITS and self.symmetric and self.narrow_range and not self.per_axis

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        """Makes the layer weights `<name>_min`, `_max`, `_seen`, and one for each knob."""
        shape: tuple[int, ...] = ()
        if self.per_axis:
            shape = (self._channels(tensor_shape, name),)
        lo, hi = self._start()
        weights = {
            "min_var": _state(layer, f"{name}_min", lo, shape),
            "max_var": _state(layer, f"{name}_max", hi, shape),
            "seen": _state(layer, f"{name}_seen", 0.0, ()),
        }
        weights |= self.range.make_state(layer, name, shape)
        for knob in self.rounder.knobs:
            is_trained = knob in self.rounder.trained_knobs
            start = getattr(self.rounder, knob)
            weights[knob] = _state(layer, f"{name}_{knob}", start, (), is_trained)
        if self.rounder.needs_key:
            weights["key"] = self._key(layer, name)
        return weights

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> tf.Tensor:
        return quantize(self, inputs, training, weights)

    def infer(self, x: tf.Tensor, weights: dict[str, Any]) -> tf.Tensor:
        """x on the stored range's grid, by TensorFlow's op."""
        pending = None if self.per_axis or is_exporting() else noted_pending(x)
        if pending is not None:
            return rounded(pending, self.grid(weights))
        exact, grid = tf.cast(self.joined(x), tf.float32), self.grid(weights)
        if self.is_wide and not is_exporting():
            return tf.cast(on_wide_grid(exact, grid), x.dtype)
        if is_exporting() and not self.symmetric:
            grid = with_a_width(grid)
        if self._moves_to_stored():
            exact, grid = constant_fake_quant(exact, grid), stored_grid(grid)
        on_grid = constant_fake_quant if self.as_constant else native_fake_quant
        return _shaped_as(x, tf.cast(on_grid(exact, grid), x.dtype))

    def _moves_to_stored(self) -> bool:
        """Whether the file holds a weight's integers with more bits than the model has."""
        stored = self.as_constant or self.bits in STORED_BITS
        return is_exporting() and self.symmetric and not stored

    def train(self, x: tf.Tensor, weights: dict[str, Any]) -> tf.Tensor:
        """Moves the range by this batch, then x on its grid by the Rounder."""
        remember(x)
        ends, state = self._move_range(x, weights), self.bound_state(weights)
        if isinstance(self.range, LEARNING):
            ends = self.range.ends({**weights, "min_var": ends[0], "max_var": ends[1]}, self.levels)
            parts = 1 if self.is_for_weights or isinstance(x, tf.Variable) else replicas()
            growth = weights["growth"]
            batch = Batch(self.joined(x), ends, self._over, self.rounder, state, growth, parts)
            y = self.range.train(batch)
        else:
            y = fake_quant(self.joined(x), self._over(ends[0], ends[1]), self.rounder, **state)
        return _shaped_as(x, y)

    def grid(self, weights: dict[str, Any]) -> Grid:
        """The grid over the stored range; of plain numbers in a graph for a `.tflite`."""
        if not is_converting():
            return self._over(*self.range.ends(weights, self.levels))
        with tf.init_scope():
            grid = self._over(*self.range.ends(weights, self.levels))
            fields: Any = grid[:_TENSORS]
            numbers = [field.numpy() for field in fields]
        constants: Any = [tf.constant(number) for number in numbers]
        return Grid(*constants, *grid[_TENSORS:])

    def _over(self, lo: Any, hi: Any) -> Grid:
        bits, narrow = self.bits, self.narrow_range
        tensors = one_call(_grid_tensors, lo, hi, bits=bits, narrow=narrow, off_ties=self.off_ties)
        return Grid._make([*tensors, bits, narrow, self.grid_axis])

    def measure(self, x: tf.Tensor) -> tf.Tensor:
        """This tensor's own ends, [lo, hi], as this quantizer would set them."""
        x = self.joined(x)
        return measure(x, self.grid_axis, self.symmetric, self.bits, self.narrow_range)

    def bypassed(self, x: Any) -> tf.Tensor:
        """x as it is without quantization: held in a range that was given, else untouched.

        One step more than the range is let through: softmax reaches 1, its grid ends at 255/256.
        """
        x = tf.convert_to_tensor(x)
        if not isinstance(self.range, Fixed) or self.range.lo is None:
            return x
        lo, hi = self._start()
        above = hi + (hi - lo) / (2**self.bits - 1)
        return tf.clip_by_value(x, tf.cast(lo, x.dtype), tf.cast(above, x.dtype))

    def set_range(self, weights: dict[str, Any], ends: Any) -> None:
        """Stores [lo, hi] as found by calibration; a moving average goes on from it slowly.

        A `fixed` range with given ends keeps them.
        """
        if isinstance(self.range, Fixed) and self.range.lo is not None:
            return
        weights["min_var"].assign(ends[0])
        weights["max_var"].assign(ends[1])
        weights["seen"].assign(_CALIBRATED)
        self.range.reset(weights)

    def get_config(self) -> dict[str, Any]:
        return {
            "bits": self.bits,
            "rounder": self.rounder.get_config(),
            "range": self.range.get_config(),
            "symmetric": self.symmetric,
            "per_axis": self.per_axis,
            "narrow_range": self.narrow_range,
            "axis": self.axis if isinstance(self.axis, int) else list(self.axis),
            "as_constant": self.as_constant,
            "off_ties": self.off_ties,
            "rate": self.rate,
        }

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.bits, self.rounder, self.range))

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({settings})"

    def _move_range(self, x: tf.Tensor, weights: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        old = tuple(tf.convert_to_tensor(weights[end]) for end in ("min_var", "max_var"))
        if not self.range.follows_data:
            return old
        seen, measured = weights["seen"], self.measure(tf.stop_gradient(x))
        is_ours = type(self.range).__module__.startswith(f"{__package__}.")
        run = one_call if is_ours else _called  # another's `update` may use anything
        lo, hi, seen = run(_moved, *old, measured, seen, range_=self.range)
        weights["min_var"].assign(lo)
        weights["max_var"].assign(hi)
        weights["seen"].assign(seen)
        return lo, hi

    def bound_state(self, weights: dict[str, Any]) -> dict[str, tf.Tensor]:
        """The Rounder's knobs and random key as they are now, to be bound to it."""
        state = {knob: tf.convert_to_tensor(weights[knob]) for knob in self.rounder.knobs}
        if "key" in weights:
            state["key"] = weights["key"].assign_add(tf.constant([0, 1], tf.int64))
        return state

    def _start(self) -> tuple[float, float]:
        given = isinstance(self.range, Fixed) and self.range.lo is not None
        return (self.range.lo, self.range.hi) if given else FIRST_GUESS  # type: ignore[union-attr,return-value,attr-defined]

    def joined(self, x: Any) -> tf.Tensor:
        """x with the channels' axes, if they are several, joined into the last one."""
        if not self.per_axis or isinstance(self.axis, int):
            return x
        kept = x.shape[: x.shape.rank - len(self.axis)]
        return tf.reshape(x, [*kept, -1])

    def _channels(self, tensor_shape: Any, name: str) -> int:
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        sizes: list[Any] = [None if tensor_shape is None else tensor_shape[axis] for axis in axes]
        if None in sizes:
            raise ValueError(
                f"RoundingQuantizer: per_axis=True needs the size of axis {self.axis} of {name!r}, "
                f"but its shape is {tensor_shape}. Use per_axis=False for activations."
            )
        return int(np.prod(sizes))

    def _key(self, layer: Any, name: str) -> tf.Variable:
        """The random key [seed, draws so far], its own for each tensor; saved, so resumable."""
        seed = getattr(self.rounder, "seed", None)
        seed = int(np.random.randint(2**31)) if seed is None else seed
        own = zlib.crc32(f"{layer.name}/{name}".encode())
        return layer.add_weight(
            name=f"{name}_key",
            shape=(2,),
            dtype=tf.int64,
            initializer=lambda shape, dtype=None, **_: tf.constant([seed ^ own, 0], tf.int64),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            experimental_autocast=False,
        )


def _called(function: Any, *tensors: Any, **settings: Any) -> Any:
    return function(*map(tf.convert_to_tensor, tensors), **settings)


def _moved(
    lo: tf.Tensor, hi: tf.Tensor, measured: tf.Tensor, seen: tf.Tensor, range_: Range
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The range's ends after a batch, and how many batches it has seen."""
    old = tf.stack([lo, hi])
    new = range_.update(old, measured, seen)
    good = tf.reduce_all(tf.math.is_finite(tf.stack([measured, new])))  # else: spoils nothing
    lo, hi = tf.unstack(tf.where(good, new, old))
    return lo, hi, seen + tf.cast(good, seen.dtype)


def _shaped_as(x: Any, y: tf.Tensor) -> tf.Tensor:
    return y if y.shape.rank == x.shape.rank else tf.reshape(y, x.shape)


def _state(
    layer: Any, name: str, value: float, shape: tuple[int, ...], trainable: bool = False
) -> tf.Variable:
    return layer.add_weight(
        name=name,
        shape=shape,
        dtype=tf.float32,
        initializer=keras.initializers.Constant(value),
        trainable=trainable,
        aggregation=tf.VariableAggregation.MEAN,
        experimental_autocast=False,  # grids are float32 whatever the layer computes in
    )
