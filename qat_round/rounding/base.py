"""The `Rounder`: moves numbers, in units of grid steps, to the grid, and says how gradients pass.

A method gives one curve, `soft`; where its gradient is that of another curve a `surrogate`, and
where autodiff is not the fastest a `pull_back`. Everything else, hard values, dtypes, training and
inference, is common and here.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from qat_round._lazy import compat, tf
from qat_round._validate import real

FORWARDS = ("soft", "hard")


def hard_round(x: tf.Tensor) -> tf.Tensor:
    """The nearest integer, ties up: `floor(x) + (x - floor(x) >= 1/2)`.

    Unlike `floor(x + 1/2)` it is exact for every float: just below 1/2 and above 2^23 too.
    """
    below = tf.floor(x)
    return below + tf.cast(x - below >= 0.5, x.dtype)


@dataclasses.dataclass(frozen=True)
class Rounder:
    """Base of all rounding methods.

    A subclass is a frozen dataclass whose fields are its settings; it defines `soft`, and may
    define `surrogate` and `pull_back`. `qr.register("name")` makes it known by name;
    `qr.testing.check_rounder` tells whether it keeps the laws.

    Call it as `rounder(x, training=True)`. Unit of x and y: steps. Shape and dtype: as x.

        training, forward="soft":  y = soft(x),      dL/dx = pull_back(x, dL/dy)
        training, forward="hard":  y = hard(x),      dL/dx = pull_back(x, dL/dy)
        not training:              y = hard(x),      dL/dx = dL/dy  (as TensorFlow's fake-quant op)

    with hard(x) = floor(x + 1/2). float16 and bfloat16 are computed in float32; infinities, going
    in and coming out, are held at the largest finite number of the dtype.

    Args:
        forward: "soft" for the method's own value, "hard" for the hard value with the method's
            gradient.

    Raises:
        ValueError: if `forward` is neither.
        TypeError: if a knob is no number; on call, if x is not of a float dtype.
    """

    forward: str = dataclasses.field(default="soft", kw_only=True)

    name: ClassVar[str] = ""
    knobs: ClassVar[tuple[str, ...]] = ()  # float fields that may be annealed while training
    # knobs that are trained with the weights -> the interval in which they are held
    trained_knobs: ClassVar[Mapping[str, tuple[float, float]]] = {}
    hard_limits: ClassVar[Mapping[str, Any]] = {}  # settings under which `soft` is hard rounding
    needs_key: ClassVar[bool] = False  # draws random numbers: `bind(key=...)` gives two int64

    def __post_init__(self) -> None:
        if self.forward not in FORWARDS:
            raise ValueError(
                f"{type(self).__name__}: forward={self.forward!r} is not one of {FORWARDS}."
            )
        for knob in self.knobs:
            object.__setattr__(self, knob, real(getattr(self, knob), self, knob))

    @property
    def exempt(self) -> Mapping[str, str]:
        """Laws that this method cannot keep -> the reason."""
        return {}

    @property
    def is_hard(self) -> bool:
        """Whether the value in training is the hard one."""
        return self.forward == "hard"

    @property
    def is_native(self) -> bool:
        """Whether value and gradient in training are those of TensorFlow's fake-quant op."""
        return False

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        """The method's own value while training; x in steps, float32 or float64."""
        raise TypeError(f"{type(self).__name__} has to define soft(x).")

    def surrogate(self, x: tf.Tensor) -> tf.Tensor:
        """The curve whose derivative the gradient is: `soft` unless a method says otherwise."""
        return self.soft(x)

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        """dL/dx from dL/dy, by autodiff of `surrogate`; a method may give the same faster."""
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self.surrogate(x)
        return tape.gradient(y, x, output_gradients=dy, unconnected_gradients="zero")

    def value(self, x: tf.Tensor) -> tf.Tensor:
        """The value while training: `soft` or hard, as `forward` says."""
        return hard_round(x) if self.is_hard else self.soft(x)

    def draw_key(self) -> tf.Tensor:
        """The random key where none is given: from the `seed`, or TensorFlow's own state."""
        seed = getattr(self, "seed", None)
        if seed is None:
            return tf.random.uniform([2], tf.int64.min, tf.int64.max, tf.int64)
        return tf.constant([seed, 0], tf.int64)

    def bind(self, **state: Any) -> Rounder:
        """A copy whose knobs (or random key) are tensors; they are not checked again."""
        bound = copy.copy(self)
        for field, tensor in state.items():
            object.__setattr__(bound, field, tensor)
        return bound

    def prepared(self) -> dict[str, tf.Tensor]:
        """What follows from the knobs alone, to be bound once before a pass over a grid's values.

        Those are in steps from its lowest level: not negative.
        """
        return {}

    def __call__(self, x: Any, training: Any = True) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        if not x.dtype.is_floating:
            raise TypeError(
                f"{type(self).__name__} rounds float tensors, but x is {x.dtype.name}. "
                "Cast it first: tf.cast(x, tf.float32)."
            )
        return compat.smart_cond(training, lambda: _in_training(self, x), lambda: _hard(x))

    def get_config(self) -> dict[str, Any]:
        """Plain data from which `qr.get` makes an equal Rounder."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        nested = {k: v.get_config() if isinstance(v, Rounder) else v for k, v in fields.items()}
        return {"name": self.name, **nested}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Rounder:
        """The Rounder that `get_config` described."""
        return cls(**{k: v for k, v in config.items() if k != "name"})


def _in_training(rounder: Rounder, x: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient
    def rounded(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        exact = _exact(x)

        def gradient(dy: tf.Tensor) -> tf.Tensor:
            return tf.saturate_cast(rounder.pull_back(exact, _exact(dy)), x.dtype)

        return tf.saturate_cast(rounder.value(exact), x.dtype), gradient

    return rounded(x)


def _hard(x: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient
    def rounded(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return tf.saturate_cast(hard_round(_exact(x)), x.dtype), lambda dy: dy

    return rounded(x)


def _exact(x: tf.Tensor) -> tf.Tensor:
    """x in the dtype in which it is computed, infinities held at the largest finite number."""
    held = tf.clip_by_value(x, x.dtype.min, x.dtype.max)
    return tf.cast(held, tf.float64 if x.dtype == tf.float64 else tf.float32)


def tensor(knob: Any, dtype: tf.DType) -> tf.Tensor:
    """A knob in a dtype, in full: `tf.cast` makes a Python float a float32 first."""
    return tf.cast(knob, dtype) if tf.is_tensor(knob) else tf.constant(knob, dtype)
