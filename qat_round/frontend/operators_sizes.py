"""Rules for operators that change sizes: pad, reduce, pool, resize."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Ref
from qat_round.frontend.operators import Op, is_constant, positive_axis, rule, scalar
from qat_round.layers.ops import DepthToSpace, Pad, Reduce


@rule("pad", "pad_v2")
def _pad(op: Op) -> list[Ref] | None:
    x, paddings = op.get("tensor"), op.get("paddings")
    mode, value = op.get("mode") or "CONSTANT", scalar(op.get("constant_values") or 0)
    if not is_constant(paddings) or value is None:
        return None
    pads = np.asarray(paddings).astype(int).tolist()
    if pads[0] != [0, 0]:
        return None
    zero = mode.upper() == "CONSTANT" and value == 0.0 and pads[-1] == [0, 0]
    if zero and len(pads) == 4:
        return op.layer(keras.layers.ZeroPadding2D, x, padding=pads[1:3])
    if zero and len(pads) == 3:
        return op.layer(keras.layers.ZeroPadding1D, x, padding=pads[1])
    return op.layer(Pad, x, paddings=pads[1:], mode=mode, value=value)


def _reduce(op: Op, kind: str, pools: dict[int, type]) -> list[Ref] | None:
    x, axis = op.get("input_tensor", "x"), op.get("axis")
    rank = op.spec(x).rank
    if rank is None or not op.spec(x).floating or (axis is not None and not is_constant(axis)):
        return None
    given = range(rank) if axis is None else np.atleast_1d(axis)
    axes = sorted(positive_axis(int(a), rank) for a in given)
    keepdims = bool(op.get("keepdims"))
    if not axes or axes[0] == 0:
        return None
    if rank in pools and axes == list(range(1, rank - 1)):
        return op.layer(pools[rank], x, keepdims=keepdims)
    return op.layer(Reduce, x, kind=kind, axes=axes, keepdims=keepdims)


_L = keras.layers
_MEANS = {3: _L.GlobalAveragePooling1D, 4: _L.GlobalAveragePooling2D}
_MAXIMA = {3: _L.GlobalMaxPooling1D, 4: _L.GlobalMaxPooling2D}


@rule("reduce_mean", "mean")
def _mean(op: Op) -> list[Ref] | None:
    return _reduce(op, "mean", _MEANS)


@rule("reduce_max")
def _max(op: Op) -> list[Ref] | None:
    return _reduce(op, "max", _MAXIMA)


@rule("reduce_sum")
def _sum(op: Op) -> list[Ref] | None:
    return _reduce(op, "sum", {})


@rule("reduce_min")
def _min(op: Op) -> list[Ref] | None:
    return _reduce(op, "min", {})


@rule("resize", "resize_v2")
def _resize(op: Op) -> list[Ref] | None:
    x, size, method = op.get("images"), op.get("size"), op.get("method")
    odd = op.get("preserve_aspect_ratio") or op.get("antialias")
    if odd or op.spec(x).rank != 4 or not is_constant(size) or not op.spec(x).floating:
        return None
    height, width = (int(n) for n in np.ravel(size))
    how = str(getattr(method, "value", method)).lower()
    if how not in ("bilinear", "nearest", "bicubic", "area"):
        return None
    return op.layer(keras.layers.Resizing, x, height=height, width=width, interpolation=how)


@rule("depth_to_space")
def _depth_to_space(op: Op) -> list[Ref] | None:
    if op.get("data_format") not in (None, "NHWC"):
        return None
    return op.layer(DepthToSpace, op.get("input"), block=int(op.get("block_size")))


def _pool(op: Op, cls: type) -> list[Ref] | None:
    sizes = [_square(op.get("ksize")), _square(op.get("strides"))]
    if op.get("data_format") not in (None, "NHWC") or None in sizes:
        return None
    padding = op.get("padding")
    if not isinstance(padding, str) or op.spec(op.get("input")).rank != 4:
        return None
    config = {"pool_size": sizes[0], "strides": sizes[1], "padding": padding.lower()}
    return op.layer(cls, op.get("input"), **config)


def _square(size: Any) -> list[int] | None:
    """Height and width of a window given as n, [h, w] or [1, h, w, 1]."""
    numbers = [int(n) for n in np.ravel(size)] if is_constant(size) else []
    if len(numbers) == 4:
        return numbers[1:3] if numbers[0] == numbers[3] == 1 else None
    return {1: numbers * 2, 2: numbers}.get(len(numbers))


@rule("max_pool", "max_pool2d")
def _max_pool(op: Op) -> list[Ref] | None:
    return _pool(op, keras.layers.MaxPooling2D)


@rule("avg_pool", "avg_pool2d")
def _avg_pool(op: Op) -> list[Ref] | None:
    return _pool(op, keras.layers.AveragePooling2D)
