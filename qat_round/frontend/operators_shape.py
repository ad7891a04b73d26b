"""Rules for operators that move numbers about: reshape, transpose, concatenate, slice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Ref, Spec
from qat_round.frontend.operators import Op, is_constant, positive_axis, rule, same_rank, scalar
from qat_round.layers.ops import Slice


def reshaped(op: Op, x: Ref, spec: Spec, label: str | None = None) -> Ref | None:
    """A `Reshape` to the given shape, if the batch stays and one axis at most is unknown."""
    shape = spec.shape
    if shape is None or len(shape) < 1 or op.spec(x).shape is None or not op.spec(x).rank:
        return None
    target = [-1 if n is None else int(n) for n in shape[1:]]
    if target.count(-1) > 1:
        return None
    name = label or op.label
    made = op.editor.emit(keras.layers.Reshape, x, spec, name, target_shape=target)
    return op.unmasked(made, [x])


def _listed(ref: Ref | None) -> list[Ref] | None:
    return None if ref is None else [ref]


def _keeps_batch(before: tuple, after: tuple) -> bool:
    """Whether a reshape certainly leaves the batch alone."""
    if before[0] is not None and after and before[0] == after[0]:
        return True
    sizes = before[1:], after[1:]
    if any(n is None for shape in sizes for n in shape):
        return False
    return math.prod(sizes[0]) == math.prod(sizes[1])


@rule("reshape")
def _reshape(op: Op) -> list[Ref] | None:
    x, shape = op.get("tensor"), op.get("shape")
    before, after = op.spec(x).shape, op.specs[0].shape
    if before is None or after is None or len(before) < 1 or len(after) < 1:
        return None
    by_batch = isinstance(shape, (list, tuple)) and _is_batch(op, x, shape[0])
    if not by_batch and not _keeps_batch(before, after):
        return None
    if by_batch:
        after = (None, *_static(shape[1:], before[1:], after[1:]))
    return _listed(reshaped(op, x, Spec(after, op.specs[0].dtype)))


def _static(wanted: Any, before: tuple, known: tuple) -> list[int | None]:
    """Sizes of the result as far as the list of wanted sizes and x's own say."""
    sizes = [
        int(n) if is_constant(n) and n != -1 else k for n, k in zip(wanted, known, strict=False)
    ]
    if sizes.count(None) == 1 and None not in before:
        rest = math.prod(n for n in sizes if n is not None)
        sizes = [math.prod(before) // rest if n is None else n for n in sizes]
    return sizes


def _is_batch(op: Op, x: Ref, size: Any) -> bool:
    """Whether a size is `tf.shape(x)[0]` of x itself or of the model's input."""
    if not isinstance(size, Ref):
        return False
    node = op.editor.nodes.get(size.node)
    if node is None or not node.args or not _is_first(node.args[1:]):
        return False
    inner = node.args[0]
    source = op.editor.nodes.get(inner.node) if isinstance(inner, Ref) else None
    return source is not None and "shape" in source.part


def _is_first(rest: tuple) -> bool:
    return bool(rest) and (rest[0] == 0 or rest[0] in ([0], (0,)))


@rule("flatten")
def _flatten(op: Op) -> list[Ref] | None:
    return op.layer(keras.layers.Flatten, op.get("x", "inputs"))


@rule("squeeze", "squeeze_v2")
def _squeeze(op: Op) -> list[Ref] | None:
    x, axis = op.get("input"), op.get("axis")
    rank = op.spec(x).rank
    if rank is None or axis is None or axis == []:
        return None
    axes = {positive_axis(a, rank) for a in np.atleast_1d(axis)}
    return None if 0 in axes else _listed(reshaped(op, x, op.specs[0]))


@rule("expand_dims")
def _expand_dims(op: Op) -> list[Ref] | None:
    x, axis = op.get("input"), scalar(op.get("axis"))
    rank = op.spec(x).rank
    if rank is None or axis is None or positive_axis(int(axis), rank + 1) == 0:
        return None
    return _listed(reshaped(op, x, op.specs[0]))


@rule("transpose")
def _transpose(op: Op) -> list[Ref] | None:
    perm = op.get("perm")
    if perm is None or not is_constant(perm) or int(np.ravel(perm)[0]) != 0:
        return None
    return op.layer(keras.layers.Permute, op.get("a", "x"), dims=[int(p) for p in perm[1:]])


@rule("concat", "concatenate")
def _concat(op: Op) -> list[Ref] | None:
    refs, axis = op.get("values", "tensors"), scalar(op.get("axis"))
    if not isinstance(refs, (list, tuple)) or not all(isinstance(r, Ref) for r in refs):
        return None
    if axis is None or not same_rank(op, list(refs)):
        return None
    if len(refs) == 1:
        return op.same(refs[0])
    axis = positive_axis(int(axis), op.spec(refs[0]).rank)
    return op.layer(keras.layers.Concatenate, list(refs), axis=axis) if axis else None


@rule("stack")
def _stack(op: Op) -> list[Ref] | None:
    refs, axis = op.get("values"), scalar(op.get("axis"))
    if not isinstance(refs, (list, tuple)) or not all(isinstance(r, Ref) for r in refs):
        return None
    shape = op.specs[0].shape
    if axis is None or shape is None:
        return None
    axis = positive_axis(int(axis), len(shape))
    one = Spec((*shape[:axis], 1, *shape[axis + 1 :]), op.specs[0].dtype)
    if axis == 0 or list(one.shape[1:]).count(None) > 1:
        return None
    made = [reshaped(op, r, one, f"{op.label}_expand") for r in refs]
    parts = [part for part in made if part is not None]
    if len(parts) < len(refs):
        return None
    if len(parts) == 1:
        return parts
    return op.layer(keras.layers.Concatenate, parts, axis=axis)


@rule("split")
def _split(op: Op) -> list[Ref] | None:
    x, count, axis = op.get("value"), op.get("num_or_size_splits"), op.get("axis")
    rank = op.spec(x).rank
    if rank is None or scalar(axis) is None or not is_constant(count):
        return None
    axis = positive_axis(int(axis), rank)
    sizes = [spec.shape[axis] for spec in op.specs]
    if axis == 0 or None in sizes:
        return None
    starts = np.cumsum([0, *sizes])
    cuts = [[int(a), int(b), None] for a, b in zip(starts, starts[1:], strict=False)]
    return [_cut(op, x, axis, cut, spec) for cut, spec in zip(cuts, op.specs, strict=True)]


@rule("unstack")
def _unstack(op: Op) -> list[Ref] | None:
    x, axis = op.get("value"), scalar(op.get("axis"))
    rank = op.spec(x).rank
    if rank is None or axis is None or positive_axis(int(axis), rank) == 0:
        return None
    axis = positive_axis(int(axis), rank)
    return [_cut(op, x, axis, i, spec) for i, spec in enumerate(op.specs)]


def _cut(op: Op, x: Ref, axis: int, cut: Any, spec: Spec) -> Ref:
    slices = [[None, None, None]] * (axis - 1) + [cut]
    return op.editor.emit(Slice, x, spec, op.label, slices=slices)


@rule("getitem", "strided_slice")
def _getitem(op: Op) -> list[Ref] | None:
    x, index = op.get("tensor", "input_"), op.get("slice_spec")
    if index is None or not isinstance(x, Ref) or not op.spec(x).rank:
        return None
    index = list(index) if isinstance(index, (list, tuple)) else [index]
    slices = _plain_slices(index, op.spec(x).rank)
    if slices is None or slices[:1] not in ([], [[None, None, None]]):
        return None
    slices = slices[1:]
    if all(s == [None, None, None] for s in slices):
        return op.same(x)
    return op.layer(Slice, x, slices=slices)


def _plain_slices(index: list, rank: int) -> list[Any] | None:
    """[start, stop, step] or an integer per axis; None where an index is something else."""
    if index.count(Ellipsis) == 1:
        at = index.index(Ellipsis)
        fill = [slice(None)] * (rank - len(index) + 1)
        index = [*index[:at], *fill, *index[at + 1 :]]
    plain = [_plain_slice(item) for item in index]
    return None if None in plain else plain


def _plain_slice(item: Any) -> Any:
    if isinstance(item, dict):
        item = slice(item["start"], item["stop"], item["step"])
    if isinstance(item, slice):
        bounds = [item.start, item.stop, item.step]
        known = all(b is None or is_constant(b) for b in bounds)
        return [None if b is None else int(b) for b in bounds] if known else None
    whole = is_constant(item) and np.ndim(item) == 0 and not isinstance(item, bool)
    return int(item) if whole else None
