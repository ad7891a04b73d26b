"""`EinsumDense` as a dense layer between a permutation and reshapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.activations import as_layer
from qat_round.frontend.graph import Editor, Node, Part, Ref, Spec
from qat_round.frontend.write_back import JOINERS, Found
from qat_round.lowering.channel_scaling import reshaped
from qat_round.lowering.rules import piece, rule

_L = keras.layers
_SPARE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Product(NamedTuple):
    """An equation, its axes by what happens to them.

    Args:
        x, w, y: labels of input, weights and output.
        free: labels of the input that are kept, in the input's order.
        summed: labels that are summed over, in the input's order.
        made: labels that the weights bring, in the output's order.
    """

    x: str
    w: str
    y: str
    free: str
    summed: str
    made: str


def parse(equation: str, rank: int) -> Product | None:
    """The axes of an equation for an input of some rank; None if it is no dense layer.

    Example:
        >>> parse("abc,cde->abde", 3)
        Product(x='abc', w='cde', y='abde', free='ab', summed='c', made='de')
    """
    left, y = equation.replace(" ", "").split("->")
    x, w = left.split(",")
    if "..." in x:
        dots = [label for label in _SPARE if label not in equation][: rank - len(x) + 3]
        x, y = (side.replace("...", "".join(dots)) for side in (x, y))
    free = "".join(a for a in x if a in y and a not in w)
    summed = "".join(a for a in x if a in w and a not in y)
    made = "".join(a for a in y if a in w and a not in x)
    whole = len(free + summed) == len(x) and len(free + made) == len(y)
    ok = whole and sorted(summed + made) == sorted(w) and x[0] == y[0] == free[:1]
    return Product(x, w, y, free, summed, made) if ok and len(x) == rank else None


@rule(_L.EinsumDense)
def _einsum_dense(editor: Editor, part: Part, node: Node) -> Ref | None:
    x, spec = node.args[0], editor.spec(node.args[0])
    product = None if spec.shape is None else parse(part.config["equation"], len(spec.shape))
    if product is None or not _plain_bias(part, product):
        return None
    y = _dense(editor, part, x, product)
    activation = part.config["activation"]
    if activation in (None, "linear"):
        return y
    cls, config = as_layer(activation)
    return editor.call(piece(editor, part, "activation", cls, **config), y, node.specs[0])


def _plain_bias(part: Part, product: Product) -> bool:
    axes = part.config.get("bias_axes")
    return not axes or sorted(axes) == sorted(product.made)


def _dense(editor: Editor, part: Part, x: Ref, product: Product) -> Ref:
    sizes = dict(zip(product.x, editor.spec(x).shape, strict=True))
    sizes |= dict(zip(product.w, part.weights[0].shape, strict=True))
    kernel, bias = _matrix(part, product)
    order = product.free + product.summed
    x = permuted(editor, x, [product.x.index(a) for a in order], f"{part.name}_turn")
    free = [sizes[a] for a in product.free]
    x = _as(editor, x, [*free, kernel.shape[0]], f"{part.name}_flat")
    weights = [kernel] if bias is None else [kernel, bias]
    config = {"units": kernel.shape[1], "use_bias": bias is not None}
    host = piece(editor, part, "dense", _L.Dense, weights, **config)
    spec = Spec((*free, kernel.shape[1]), editor.spec(x).dtype)
    y = editor.call(host, x, spec)
    y = _as(editor, y, [*free, *(sizes[a] for a in product.made)], f"{part.name}_split")
    made = product.free + product.made
    return permuted(editor, y, [made.index(a) for a in product.y], f"{part.name}_order")


def _matrix(part: Part, product: Product) -> tuple[np.ndarray, np.ndarray | None]:
    """The kernel as (summed, made) and the bias as (made,)."""
    kernel = part.weights[0]
    turned = kernel.transpose([product.w.index(a) for a in product.summed + product.made])
    made = [kernel.shape[product.w.index(a)] for a in product.made]
    kernel = turned.reshape(-1, int(np.prod(made)))
    if len(part.weights) == 1:
        return kernel, None
    return kernel, part.weights[1].reshape(-1)


def _as(editor: Editor, x: Ref, shape: Sequence[Any], name: str) -> Ref:
    spec = editor.spec(x)
    if tuple(shape) == tuple(spec.shape):
        return x
    return reshaped(editor, x, Spec(tuple(shape), spec.dtype), name)


def permuted(editor: Editor, x: Ref, order: Sequence[int], name: str) -> Ref:
    """x with its axes in another order; the batch stays in front."""
    if list(order) == sorted(order):
        return x
    spec = editor.spec(x)
    turned = Spec(tuple(spec.shape[a] for a in order), spec.dtype)
    return editor.emit(_L.Permute, x, turned, name, dims=tuple(order[1:]))


def _joined(part: Part, found: Found) -> list[np.ndarray]:
    dense: Mapping[str, np.ndarray] = found("dense")
    rank = len(part.config["equation"].replace(" ", "").split(",")[0].replace("...", ""))
    dots = 2 if "..." in part.config["equation"] else 0
    product = parse(part.config["equation"], rank + dots)
    if product is None:
        raise KeyError(part.name)
    turned = product.summed + product.made
    shape = [part.weights[0].shape[product.w.index(a)] for a in turned]
    kernel = dense["kernel"].reshape(shape).transpose([turned.index(a) for a in product.w])
    return [kernel] if "bias" not in dense else [kernel, dense["bias"]]


JOINERS[_L.EinsumDense] = _joined
