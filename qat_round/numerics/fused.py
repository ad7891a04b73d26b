"""One pass over memory each way: the formulas of fake quantization, compiled where it pays.

TensorFlow runs operation after operation, each a pass through memory; XLA makes one loop of them.
So a large tensor goes through a compiled function, cached for each formula, Rounder and layout;
knobs are its arguments, so that annealing compiles nothing anew. A small tensor would not repay
the compiling, which XLA does for each shape; its formulas are a function of plain operations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from qat_round._compat import tf
from qat_round.numerics.graph_function import APART, one_call
from qat_round.rounding import Rounder, exponential

WORTH_COMPILING = 32_768  # values; `math.inf` compiles nothing
_WORTH_LEAVING_NATIVE = 262_144  # values with one grid, of a method that has the native gradient
_LIKELY_BATCH = 32  # Keras's own; stands for one that is not known when the graph is made


class Cells(NamedTuple):
    """The cells that values fall into, between the levels of a grid.

    Args:
        lo, hi: real values of the lowest and the highest level; float32, () or (channels,).
        step: distance between levels, real units.
        per_step: 1/step.
    """

    lo: tf.Tensor
    hi: tf.Tensor
    step: tf.Tensor
    per_step: tf.Tensor


def soft_value(rounder: Rounder, cells: Cells, x: tf.Tensor) -> tf.Tensor:
    """y = R(v) step + lo, with v = (clip(x, lo, hi) - lo) / step."""
    v = _in_steps(cells, tf.cast(x, tf.float32))
    return tf.cast(rounder.soft(v) * cells.step + cells.lo, x.dtype)


def hard_value(rounder: Rounder, cells: Cells, x: tf.Tensor) -> tf.Tensor:
    """The value of TensorFlow's fake-quant op per channel, bit for bit, for any Rounder.

    y = floor((clip(x, lo, hi) - lo) per_step - zero + 1/2) step,   zero = floor(1/2 - lo per_step)

    Its own kernel goes through memory once for each channel. The minimum changes no value; it keeps
    a compiler from making one operation, rounded once, of the product and the difference.
    """
    zero = tf.floor(0.5 - cells.lo * cells.per_step)
    v = _in_steps(cells, tf.cast(x, tf.float32))
    level = tf.floor(tf.minimum(v, v.dtype.max) - zero + 0.5)
    return tf.cast(level * cells.step, x.dtype)


def pull_back(rounder: Rounder, cells: Cells, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """dL/dx = R'(v) dL/dy where lo <= x <= hi, else 0."""
    exact = tf.cast(x, tf.float32)
    v = (exact - cells.lo) * cells.per_step  # not clipped: what lies outside is thrown away below
    dx = rounder.pull_back(v, tf.cast(dy, tf.float32))
    return tf.cast(_only_inside(cells, exact, dx), x.dtype)


def pull_back_with_terms(
    rounder: Rounder, cells: Cells, x: tf.Tensor, dy: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """dL/dx as in `pull_back`, and what is to be summed for grids that learn.

    With y = R(v) step + lo:  dL/dlo = sum(dL/dy - dL/dx),   dL/dstep = sum(R(v) dL/dy - v dL/dx)
    """
    exact, dv = tf.cast(x, tf.float32), tf.cast(dy, tf.float32)
    v = _in_steps(cells, exact)
    dx = _only_inside(cells, exact, rounder.pull_back(v, dv))
    return tf.cast(dx, x.dtype), dv - dx, dv * rounder.value(v) - dx * v


def pull_back_with_term(
    rounder: Rounder, cells: Cells, x: tf.Tensor, dy: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The same for grids whose step alone learns, with k = lo / step.

    dL/dstep = sum((R(v) + k) dL/dy - (v + k) dL/dx)
    """
    exact, dv = tf.cast(x, tf.float32), tf.cast(dy, tf.float32)
    v, k = _in_steps(cells, exact), cells.lo * cells.per_step
    dx = _only_inside(cells, exact, rounder.pull_back(v, dv))
    return tf.cast(dx, x.dtype), dv * (rounder.value(v) + k) - dx * (v + k)


@tf.autograph.experimental.do_not_convert  # it would lose what compiled functions close over
def in_one_pass(
    formula: Callable[..., Any],
    rounder: Rounder,
    state: dict[str, tf.Tensor],
    cells: Cells,
    axis: int | None,
    *tensors: tf.Tensor,
) -> Any:
    """A formula of this module, applied to tensors of one shape; compiled if they are large.

    Args:
        formula: called with (rounder, cells, *tensors).
        rounder: the method.
        state: from `whole_state`.
        cells: of shape () or (channels,).
        axis: the channels' axis, or None.
        *tensors: of one shape and dtype.

    Returns:
        What the formula gives, in the tensors' shape.
    """
    flat = tuple(_flatten(tensor, axis) for tensor in tensors)
    rank, dtype = flat[0].shape.rank, flat[0].dtype
    if _is_plain(state):
        key = (formula, _structure(rounder), tuple(state), rank, dtype, len(flat))
        results = _one_function(*key, pays(tensors[0]))(flat, cells, tuple(state.values()))
    else:
        with exponential.compiled(pays(tensors[0])):
            results = formula(rounder.bind(**state), _spread(cells, rank), *flat)
    return tf.nest.map_structure(lambda t: _shape_like(t, tensors[0]), results)


def whole_state(rounder: Rounder, state: dict[str, Any], x: tf.Tensor) -> dict[str, tf.Tensor]:
    """What one pass binds to the Rounder: its knobs, given or as set, and what follows from them.

    A Rounder that draws gets a random key as well, so that both ways have the same.

    Args:
        rounder: the method.
        state: what takes the place of its knobs.
        x: what the pass is over: its size says by which functions it is computed.
    """
    knobs = {knob: state.get(knob, getattr(rounder, knob)) for knob in rounder.knobs}
    whole = {knob: tf.cast(value, tf.float32) for knob, value in knobs.items()}
    if type(rounder).prepared is not Rounder.prepared:
        settings = {"rounder": _structure(rounder), "names": tuple(whole), "compiled": pays(x)}
        whole |= one_call(_prepared, *whole.values(), **settings)
    if rounder.needs_key:
        whole["key"] = state["key"] if "key" in state else rounder.draw_key()
    return whole


def _prepared(
    *knobs: tf.Tensor, rounder: Rounder, names: tuple[str, ...], compiled: bool
) -> dict[str, tf.Tensor]:
    with exponential.compiled(compiled):
        return rounder.bind(**dict(zip(names, knobs, strict=True))).prepared()


def _in_steps(cells: Cells, x: tf.Tensor) -> tf.Tensor:
    return (tf.clip_by_value(x, cells.lo, cells.hi) - cells.lo) * cells.per_step


def _only_inside(cells: Cells, x: tf.Tensor, dx: tf.Tensor) -> tf.Tensor:
    inside = tf.logical_and(x >= cells.lo, x <= cells.hi)
    return tf.where(inside, dx, tf.zeros_like(dx))


def _is_plain(state: dict[str, tf.Tensor]) -> bool:
    """Whether it is one number for each knob, and a key of two."""
    return all(tensor.shape.rank == (name == "key") for name, tensor in state.items())


def pays(x: tf.Tensor, least: int | None = None) -> bool:
    """Whether compiling does: one batch size is all that varies and the tensor is large.

    Args:
        x: the tensor.
        least: how many values; `WORTH_COMPILING` unless given.
    """
    if x.shape.rank is None or x.shape.as_list().count(None) > 1:
        return False
    size = math.prod(_LIKELY_BATCH if n is None else n for n in x.shape)
    return size >= (WORTH_COMPILING if least is None else least)


def is_small(x: tf.Tensor, axis: int | None) -> bool:
    """Whether TensorFlow's own op, forward and backward, is at least as fast as a compiled pass."""
    if axis is None:
        return not pays(x, max(WORTH_COMPILING, _WORTH_LEAVING_NATIVE))
    return axis % x.shape.rank == x.shape.rank - 1 and not pays(x)


def _structure(rounder: Rounder) -> Rounder:
    """The Rounder without its knobs' values: equal for all that one compiled function serves."""
    return rounder.bind(**dict.fromkeys(rounder.knobs))


@functools.cache
def _one_function(
    formula: Callable[..., Any],
    rounder: Rounder,
    names: tuple[str, ...],
    rank: int,
    dtype: tf.DType,
    count: int,
    compiled: bool,
) -> Any:
    """The function for `count` tensors of any size in a layout of the given rank."""
    tensor = tf.TensorSpec([None] * rank, dtype)
    cell = tf.TensorSpec([None] * min(rank - 1, 1), tf.float32)
    knob, key = tf.TensorSpec([], tf.float32), tf.TensorSpec([2], tf.int64)
    state = tuple(key if name == "key" else knob for name in names)

    @tf.function(
        jit_compile=compiled or None,
        autograph=False,
        experimental_attributes=None if compiled else APART,
        input_signature=[(tensor,) * count, Cells(cell, cell, cell, cell), state],
    )
    def run(tensors: Any, cells: Cells, values: Any) -> Any:
        bound = rounder.bind(**dict(zip(names, values, strict=True)))
        with exponential.compiled(compiled):
            return formula(bound, _spread(cells, rank), *tensors)

    return run


def _flatten(x: tf.Tensor, axis: int | None) -> tf.Tensor:
    """x as (values,), (outer, channels) or (outer, channels, inner): few shapes to compile for."""
    if axis is None:
        return tf.reshape(x, [-1])
    axis %= x.shape.rank
    inner = [] if axis == x.shape.rank - 1 else [_size(x, axis + 1, x.shape.rank)]
    return tf.reshape(x, [-1, _size(x, axis, axis + 1), *inner])


def _size(x: tf.Tensor, begin: int, end: int) -> Any:
    """Values along some axes: an int where it is known."""
    known = x.shape[begin:end].num_elements()
    return tf.reduce_prod(tf.shape(x)[begin:end]) if known is None else known


def _spread(cells: Cells, rank: int) -> Cells:
    """Cells that broadcast against the layout."""
    return Cells(*(end[:, tf.newaxis] for end in cells)) if rank == 3 else cells


def _shape_like(flat: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(flat, x.shape if x.shape.is_fully_defined() else tf.shape(x))
