"""The laws of rounding methods, as checks.

Each law is one function from a Rounder to its complaints; a law without complaints is kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qat_round._compat import tf
from qat_round.rounding import Rounder, get

Law = Callable[[Rounder], Iterator[str]]

LAWS: dict[str, Law] = {}
"""Name -> law, in the order in which they are checked."""

_HALF_PRECISION = ("float16", "bfloat16")
_DTYPES = (*_HALF_PRECISION, "float32", "float64")
_HUGE = 2.0**20  # float32 still has eight values a step there; float16 has none left
_random = np.random.default_rng(20)
_POINTS = np.round(_random.uniform(-8.0, 8.0, 400) * 2**19) / 2**19  # exact in float32
_POINTS = _POINTS[np.abs(_POINTS * 2 - np.round(_POINTS * 2)) > 2e-4]  # off integers and ties
_UPSTREAM = _random.choice([-2.0, 0.5, 1.0], _POINTS.shape)  # dL/dy
_TIES_TOO = np.arange(-32, 33) / 8.0  # integers, ties, and between; exact in every dtype


def _law(name: str) -> Callable[[Law], Law]:
    def add(law: Law) -> Law:
        LAWS[name] = law
        return law

    return add


@_law("integers")
def _integers_are_fixed(rounder: Rounder) -> Iterator[str]:
    x = np.concatenate([np.arange(-8.0, 9.0), [-_HUGE, _HUGE]])
    for dtype in ("float32", "float64"):
        yield from _differences(f"value in {dtype}", x, _value(rounder, x, dtype), x, 1e-6)


@_law("cells")
def _moves_with_its_cell(rounder: Rounder) -> Iterator[str]:
    x = np.round(_POINTS * 1024) / 1024 % 1.0  # x + n is exact in float32
    for dtype in ("float32", "float64"):
        y, slope = _value(rounder, x, dtype), _gradient(rounder, x, dtype)
        for n in (-1000, 3):
            near = 8 * np.finfo(dtype).eps * (abs(n) + 8)  # roundings of x + n and of what follows
            moved, slope_there = (f(rounder, x + n, dtype) for f in (_value, _gradient))
            where = f"{n} steps on, {dtype}"
            yield from _differences(f"value {where}", x + n, moved, y + n, near)
            near *= max(1.0, np.abs(slope).max())
            yield from _differences(f"gradient {where}", x + n, slope_there, slope, near)


@_law("finite")
def _is_finite(rounder: Rounder) -> Iterator[str]:
    exact = np.concatenate([np.arange(-4, 4.5, 0.5), [-_HUGE, _HUGE]]).astype(np.float32)
    x = np.concatenate([exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf)])
    for variant in _knobs_from_end_to_end(rounder):
        for dtype in (*_HALF_PRECISION, "float32"):
            for what, found in (("value", _value), ("gradient", _gradient)):
                y = found(variant, x, dtype)
                if not np.isfinite(y).all():
                    first = int(np.argmin(np.isfinite(y)))
                    yield f"{what} of {variant} in {dtype} at x={x[first]} is {y[first]}"


@_law("gradient")
def _gradient_is_the_derivative(rounder: Rounder) -> Iterator[str]:
    h = 1e-6  # rounding of the difference: 2e-16 * 8 / h = 2e-9
    x, dy = _POINTS, _UPSTREAM
    curve = _soft(rounder).surrogate
    ends = [curve(tf.constant(x + shift, tf.float64)).numpy() for shift in (h, -h)]
    derivative = (ends[0] - ends[1]) / (2 * h)
    gradient = _gradient(rounder, x, "float64", dy)
    near = 1e-5 * np.abs(derivative) + 1e-7 + _change(rounder, x, h)
    yield from _differences("gradient in float64", x, gradient, dy * derivative, 2 * near)
    near = 1e-4 * np.abs(derivative) + 1e-5 * max(1.0, np.abs(derivative).max())
    near += _change(rounder, x, 2.0**-20)  # float32 cannot tell x from x + 2^-20
    single = _gradient(rounder, x, "float32", dy)
    yield from _differences("gradient in float32", x, single, dy * derivative, 2 * near)


@_law("hard_limit")
def _limit_is_hard(rounder: Rounder) -> Iterator[str]:
    limit = dataclasses.replace(_soft(rounder), **rounder.hard_limits)
    x = _POINTS[np.abs(_POINTS % 1.0 - 0.5) > 0.05]
    y = _value(limit, x, "float32")
    yield from _differences(f"value of {limit}", x, y, np.floor(x + 0.5), 0.01)


@_law("shape_and_dtype")
def _keeps_shape_and_dtype(rounder: Rounder) -> Iterator[str]:
    for shape in ((), (0,), (3,), (2, 0, 3)):
        yield from _kept(rounder, tf.fill(shape, 0.25), None)
    for dtype in _DTYPES:
        x = tf.fill((2, 3, 4), tf.cast(0.25, dtype))
        yield from _kept(rounder, x, None)
        yield from _kept(rounder, x, tf.TensorSpec(None, dtype))
    if not rounder.needs_key:  # draws of another dtype are other draws
        exact = _value(rounder, _TIES_TOO, "float64")
        for dtype in _DTYPES:
            near = 1e-5 + 8 * float(_eps(dtype))
            yield from _differences(
                f"value in {dtype}", _TIES_TOO, _value(rounder, _TIES_TOO, dtype), exact, near
            )


@_law("graph")
def _same_in_a_graph(rounder: Rounder) -> Iterator[str]:
    def run(x: tf.Tensor, knobs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return _value_and_gradient(rounder.bind(**knobs), x)

    x = tf.constant(_POINTS, tf.float32)
    knobs = {knob: tf.constant(getattr(rounder, knob), tf.float32) for knob in rounder.knobs}
    y, slope = (t.numpy() for t in _value_and_gradient(rounder, x))
    y_traced, slope_traced = (
        t.numpy() for t in tf.function(run).get_concrete_function(x, knobs)(x, knobs)
    )
    yield from _differences("value", _POINTS, y_traced, y, 1e-5)
    near = 1e-5 * max(1.0, np.abs(slope).max())
    yield from _differences("gradient", _POINTS, slope_traced, slope, near)


@_law("config")
def _survives_json(rounder: Rounder) -> Iterator[str]:
    written = json.dumps(rounder.get_config())
    read = get(json.loads(written))
    if read != rounder or hash(read) != hash(rounder):
        yield f"{written} gives {read!r}"


@_law("inference")
def _inference_is_hard(rounder: Rounder) -> Iterator[str]:
    x, ones = _TIES_TOO, np.ones_like(_TIES_TOO)
    for dtype in _DTYPES:
        for training in (False, tf.constant(False)):
            y, slope = _value_and_gradient(rounder, tf.constant(x, dtype), training)
            yield from _differences(f"value in {dtype}", x, _array(y), np.floor(x + 0.5), 0.0)
            yield from _differences(f"gradient in {dtype}", x, _array(slope), ones, 0.0)


@_law("hard_forward")
def _hard_forward(rounder: Rounder) -> Iterator[str]:
    hard = dataclasses.replace(rounder, forward="hard")
    y = _value(hard, _TIES_TOO, "float32")
    yield from _differences("value", _TIES_TOO, y, np.floor(_TIES_TOO + 0.5), 0.0)
    slopes = [_gradient(r, _POINTS, "float32", _UPSTREAM) for r in (hard, _soft(rounder))]
    yield from _differences("gradient", _POINTS, slopes[0], slopes[1], 0.0)


@_law("repeatable")
def _repeats(rounder: Rounder) -> Iterator[str]:
    first, second = (_value(rounder, _POINTS, "float32") for _ in range(2))
    yield from _differences("value of the second call", _POINTS, second, first, 0.0)


def _soft(rounder: Rounder) -> Rounder:
    return dataclasses.replace(rounder, forward="soft")


def _knobs_from_end_to_end(rounder: Rounder) -> Iterator[Rounder]:
    """The Rounder, and with each knob at 1e-6 ... 1e6; values that it refuses are left out."""
    yield rounder
    for knob in rounder.knobs:
        for exponent in range(-6, 7):
            try:
                yield dataclasses.replace(rounder, **{knob: 10.0**exponent})  # type: ignore[arg-type]
            except ValueError:
                continue


def _value_and_gradient(
    rounder: Rounder, x: tf.Tensor, training: Any = True, dy: Any = None
) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = rounder(x, training=training)
    return y, tape.gradient(y, x, output_gradients=dy, unconnected_gradients="zero")


def _value(rounder: Rounder, x: np.ndarray, dtype: str) -> np.ndarray:
    return _array(rounder(tf.cast(x, dtype)))


def _gradient(rounder: Rounder, x: np.ndarray, dtype: str, dy: Any = None) -> np.ndarray:
    upstream = None if dy is None else tf.cast(dy, dtype)
    return _array(_value_and_gradient(rounder, tf.cast(x, dtype), dy=upstream)[1])


def _change(rounder: Rounder, x: np.ndarray, h: float) -> np.ndarray:
    """How much the gradient changes over x - h .. x + h: all there is to say near a kink."""
    return np.abs(_gradient(rounder, x + h, "float64") - _gradient(rounder, x - h, "float64"))


def _kept(rounder: Rounder, x: tf.Tensor, traced_as: Any) -> Iterator[str]:
    run = lambda x: _value_and_gradient(rounder, x)  # noqa: E731
    if traced_as is not None:
        run = tf.function(run).get_concrete_function(traced_as)
    for what, y in zip(("value", "gradient"), run(x), strict=True):
        if y.dtype != x.dtype or y.shape != x.shape:
            where = "" if traced_as is None else " in a tf.function of unknown shape"
            yield (
                f"{what} of x of shape {x.shape}, {x.dtype.name}{where} "
                f"has shape {y.shape}, {y.dtype.name}"
            )


def _eps(dtype: str) -> float:
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def _array(x: tf.Tensor) -> np.ndarray:
    return tf.cast(x, tf.float64).numpy()


def _differences(
    what: str, x: np.ndarray, got: np.ndarray, expected: np.ndarray, near: Any
) -> Iterator[str]:
    """One line with the first three values that are not near the expected ones."""
    wrong = np.flatnonzero(~(np.abs(got - expected) <= near))
    if wrong.size:
        first = ", ".join(f"x={x[i]}: {got[i]}, not {expected[i]}" for i in wrong[:3])
        yield f"{what}: {wrong.size} of {x.size} wrong, first {first}"
