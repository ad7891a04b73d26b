"""Attention: products of matrices, a softmax, and masks as sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Node, Part, Ref, Spec
from qat_round.frontend.write_back import JOINERS, Found
from qat_round.layers import ops
from qat_round.layers.ops import MatMul
from qat_round.lowering.channel_scaling import reshaped, scaled
from qat_round.lowering.masks import FAR, READERS, far_below, mask_of
from qat_round.lowering.rules import piece, rule
from qat_round.lowering.rules_einsum import permuted

_L = keras.layers
_ROLES = ("query", "key", "value", "attention_output")


@rule(_L.MultiHeadAttention, plain=False)
def _multi_head(editor: Editor, part: Part, node: Node) -> Any:
    """softmax(q k^T / sqrt(d)) v for each head, between four dense layers."""
    given = _arguments(node)
    sequences: list[Any] = [given.get(role) for role in ("query", "key", "value")]
    if any(not isinstance(ref, Ref) or len(editor.spec(ref).shape) != 3 for ref in sequences):
        return None
    if part.config.get("attention_axes") not in (None, (1,), [1]) or not _takes_mask(editor, given):
        return None
    weights = _by_role(part)
    q, k, v = (
        _heads(editor, part, ref, role, weights[role])
        for ref, role in zip(sequences, _ROLES, strict=False)
    )
    biases = _biases(editor, part, given, editor.spec(q).shape, editor.spec(k).shape)
    y, scores = _attend(editor, part, (q, k, v), biases)
    y = permuted(editor, y, [0, 2, 1, 3], f"{part.name}_order")
    shape = editor.spec(y).shape
    joined = Spec((*shape[:2], shape[2] * shape[3]), node.specs[0].dtype)
    y = reshaped(editor, y, joined, f"{part.name}_join")
    kernel, bias = weights["attention_output"]
    y = _dense(editor, part, y, "attention_output", kernel.reshape(shape[2] * shape[3], -1), bias)
    return [y, scores][: len(node.specs)]


def _arguments(node: Node) -> dict[str, Any]:
    names = ("query", "value", "key", "attention_mask", "return_attention_scores", "training")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if given.get("key") is None:
        given["key"] = given["value"]
    return given


def _takes_mask(editor: Editor, given: Mapping[str, Any]) -> bool:
    """Whether the mask that was given, if any, is a tensor of floats."""
    mask = given.get("attention_mask")
    return mask is None or (isinstance(mask, Ref) and editor.spec(mask).floating)


def _by_role(part: Part) -> dict[str, tuple[np.ndarray, Any]]:
    """{role: (kernel, bias or None)}, in the order that the layer keeps its weights."""
    values, biased = list(part.weights), bool(part.config["use_bias"])
    return {role: (values.pop(0), values.pop(0) if biased else None) for role in _ROLES}


def _heads(editor: Editor, part: Part, x: Ref, role: str, weights: tuple[Any, Any]) -> Ref:
    """(batch, steps, features) -> (batch, heads, steps, size)."""
    kernel, bias = weights
    _, heads, size = kernel.shape
    factor = _factor(part) if role == "query" else 1.0
    matrix = kernel.reshape(kernel.shape[0], -1) * factor
    y = _dense(editor, part, x, role, matrix, None if bias is None else bias * factor)
    spec = editor.spec(y)
    split = Spec((*spec.shape[:2], heads, size), spec.dtype)
    y = reshaped(editor, y, split, f"{part.name}_{role}_split")
    return permuted(editor, y, [0, 2, 1, 3], f"{part.name}_{role}_heads")


def _factor(part: Part) -> np.float32:
    return np.float32(1.0 / np.sqrt(float(part.config["key_dim"])))


def _dense(editor: Editor, part: Part, x: Ref, role: str, kernel: Any, bias: Any) -> Ref:
    weights = [kernel] if bias is None else [kernel, bias.reshape(-1)]
    config = {"units": kernel.shape[1], "use_bias": bias is not None}
    host = piece(editor, part, role, _L.Dense, weights, **config)
    spec = editor.spec(x)
    return editor.call(host, x, Spec((*spec.shape[:-1], kernel.shape[1]), spec.dtype))


def _attend(
    editor: Editor, part: Part, heads: tuple[Ref, Ref, Ref], biases: list[Any]
) -> tuple[Ref, Ref]:
    """The values, weighed, and the weights."""
    q, k, v = heads
    a, b, c = (editor.spec(ref) for ref in heads)
    spec = Spec((*a.shape[:-1], b.shape[-2]), a.dtype)
    scores = editor.emit(MatMul, [q, k], spec, f"{part.name}_scores", transpose_b=True)
    return _weigh(editor, part, scores, v, c, biases)


def _weigh(
    editor: Editor, part: Part, scores: Ref, v: Ref, of: Spec, biases: list[Any]
) -> tuple[Ref, Ref]:
    spec = editor.spec(scores)
    for number, bias in enumerate(biases):
        name = f"{part.name}_masked_{number}"
        if isinstance(bias, Ref):
            scores = editor.emit(_L.Add, [scores, bias], spec, name)
        else:
            scores = editor.emit(ops.Affine, scores, spec, name, offset=bias)
    weights = editor.emit(_L.Softmax, scores, spec, f"{part.name}_softmax")
    dropped = weights
    if part.config.get("dropout"):
        name = piece(editor, part, "dropout", _L.Dropout, rate=part.config["dropout"])
        dropped = editor.call(name, weights, spec)
    result = Spec((*spec.shape[:-1], of.shape[-1]), spec.dtype)
    return editor.emit(MatMul, [dropped, v], result, f"{part.name}_weighed"), weights


def _biases(editor: Editor, part: Part, given: Mapping[str, Any], q: Any, k: Any) -> list[Any]:
    """What is added to scores of shape (batch, heads, steps, steps of the keys)."""
    biases: list[Any] = []
    for role in dict.fromkeys(("value", "key")):
        mask = mask_of(editor, given[role])
        if mask is not None and not biases:
            biases.append(far_below(editor, part, mask, (q[0], 1, 1, k[-2]), f"{role}_mask"))
    mask = given.get("attention_mask")
    if mask is not None:
        shape = editor.spec(mask).shape
        wide = (q[0], 1, *shape[1:]) if len(shape) == 3 else shape
        biases.append(far_below(editor, part, mask, wide, "attention_mask"))
    if given.get("use_causal_mask"):
        biases.append(_causal(q[-2], k[-2], 1))
    return biases


def _causal(steps: int, keys: int, heads: int) -> list[Any]:
    """-FAR above the diagonal."""
    above = 1.0 - np.tri(steps, keys, dtype=np.float32)
    return (-FAR * above.reshape([heads] * (heads > 0) + [steps, keys])).tolist()


@rule(_L.Attention, plain=False)
def _attention(editor: Editor, part: Part, node: Node) -> Any:
    """softmax(scale q k^T) v."""
    given, config = dict(node.kwargs), part.config
    tensors = node.args[0]
    if config.get("score_mode", "dot") != "dot" or len(node.args) != 1 or given.get("mask"):
        return None
    q, v, k = tensors[0], tensors[1], tensors[2] if len(tensors) > 2 else tensors[1]
    a, b = editor.spec(q), editor.spec(k)
    if len(a.shape) != 3 or a.masked:
        return None
    spec = Spec((*a.shape[:-1], b.shape[-2]), a.dtype)
    scores = editor.emit(MatMul, [q, k], spec, f"{part.name}_scores", transpose_b=True)
    if config["use_scale"]:
        scores = scaled(editor, part, scores, "factor", np.reshape(part.weights[0], [1]))
    biases: list[Any] = []
    mask = mask_of(editor, v)
    if mask is not None:
        biases.append(far_below(editor, part, mask, (a.shape[0], 1, b.shape[-2]), "mask"))
    if given.get("use_causal_mask") or config.get("causal"):
        biases.append(_causal(a.shape[-2], b.shape[-2], 0))
    y, weights = _weigh(editor, part, scores, v, editor.spec(v), biases)
    return [y, weights][: len(node.specs)]


def _joined_heads(part: Part, found: Found) -> list[np.ndarray]:
    values: list[np.ndarray] = []
    for role in _ROLES:
        dense, factor = found(role), _factor(part) if role == "query" else np.float32(1.0)
        values += [dense[key] / factor for key in ("kernel", "bias") if key in dense]
    return values


JOINERS[_L.MultiHeadAttention] = _joined_heads
JOINERS[_L.Attention] = lambda part, found: [found("factor_scale")["scale"]]
READERS.update({_L.MultiHeadAttention, _L.Attention})
