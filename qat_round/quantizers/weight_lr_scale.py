"""How fast weights learn, against the rate of the optimizer that trains them.

At few bits a level is far away: within a fine-tuning's steps at a float net's rate most weights do
not reach the next one. So a quantizer may ask for more:

    w  <-  w0 + rate (w1 - w0)

where w0 is the weight before a step of the optimizer and w1 behind it, whichever optimizer it is.
Regularizers, weight decay and constraints keep their meaning, for the variable is the weight itself
at all times. It is done by way of the variable's constraint, the one hook that Keras's optimizers
have behind a step.
"""

from __future__ import annotations

import math
from typing import Any

from qat_round._compat import is_exporting, set_constraint, tf, uncast
from qat_round._validate import real, require


def checked_rate(rate: Any, owner: Any) -> float:
    """The rate; a TypeError or ValueError that names the owner if it cannot be one."""
    rate = real(rate, owner, "rate")
    require(0.0 < rate < math.inf, owner, f"rate={rate} has to be positive and finite.")
    return rate


class Pace:
    """A constraint that makes more of each step, and then does what the layer's own does.

    Args:
        rate: how many steps one step is to be.
        before: a variable as the weight: what it was before the step.
        own: the layer's constraint, or None.
    """

    def __init__(self, rate: float, before: tf.Variable, own: Any):
        self.rate, self.before, self.own = rate, before, own

    def __call__(self, weight: Any) -> tf.Tensor:
        start = tf.convert_to_tensor(self.before)
        moved = start + self.rate * (tf.convert_to_tensor(weight) - start)
        moved = moved if self.own is None else self.own(moved)
        self.before.assign(moved)
        return moved


def set_paces(wrapper: Any) -> None:
    """Lets the weights of a built wrapper learn as fast as their quantizers ask."""
    for variable, quantizer, _ in wrapper._weight_vars:
        rate = getattr(quantizer, "rate", 1.0)
        if rate != 1.0 and not isinstance(variable.constraint, Pace):
            _set_pace(uncast(variable), rate)


def remember(variable: Any) -> None:
    """Keeps what a weight with a pace of its own is before an optimizer's step."""
    pace = getattr(variable, "constraint", None)
    if isinstance(pace, Pace) and not is_exporting():
        pace.before.assign(tf.convert_to_tensor(variable))


def _set_pace(variable: Any, rate: float) -> None:
    with tf.init_scope():
        before = tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
    set_constraint(variable, Pace(rate, before, variable.constraint))
