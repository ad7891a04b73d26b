"""Per-channel factors and offsets as layers that TFLite computes in integers.

A vector of factors, one for each channel, is a 1x1 depthwise convolution: every channel has a
scale of its own there. A lone number is a product or a sum with a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Part, Ref, Spec
from qat_round.layers import ops
from qat_round.lowering.rules import piece

_L = keras.layers


def scaled(
    editor: Editor, part: Part, x: Ref, suffix: str, scale: Any = None, offset: Any = None
) -> Ref:
    """scale * x + offset, both trained with the layer that they are a piece of.

    Args:
        editor: of the graph that is made.
        part: the layer that is taken apart.
        x: the tensor.
        suffix: what the piece is called.
        scale, offset: arrays that broadcast against an example, or None.
    """
    if scale is None and offset is None:
        return x
    spec = editor.spec(x)
    channels = None if spec.shape is None else spec.shape[-1]
    vectors: list[Any] = [None if v is None else np.float32(v) for v in (scale, offset)]
    by_channel = all(v is None or v.size == v.shape[-1] == channels for v in vectors)
    if by_channel and can_be_image(spec):
        factors = np.ones([spec.shape[-1]], np.float32) if vectors[0] is None else vectors[0]
        weights: list[Any] = [factors.reshape(1, 1, -1, 1)]
        weights += [] if vectors[1] is None else [vectors[1].reshape(-1)]
        host = piece(
            editor, part, suffix, _L.DepthwiseConv2D, weights,
            kernel_size=1, use_bias=vectors[1] is not None,
        )  # fmt: skip
        return as_image(editor, x, suffix, part.name, lambda y, s: editor.call(host, y, s))
    for word, vector in zip(("scale", "offset"), vectors, strict=True):
        if vector is not None:
            host = piece(
                editor, part, f"{suffix}_{word}", ops.Affine, [vector], **{word: vector.tolist()}
            )
            x = editor.call(host, x, spec)
    return x


def can_be_image(spec: Spec) -> bool:
    """Whether a tensor can be seen as (batch, height, width, channels)."""
    if spec.shape is None or len(spec.shape) < 2 or spec.shape[-1] is None:
        return False
    return len(spec.shape) == 4 or list(spec.shape[1:-1]).count(None) <= 1


def as_image(editor: Editor, x: Ref, suffix: str, owner: str, use: Any) -> Ref:
    """What `use(image, its spec)` gives, on x seen as an image, in the shape that x has."""
    spec = editor.spec(x)
    if len(spec.shape) == 4:
        return use(x, spec)
    middle = spec.shape[1:-1]
    length = None if None in middle else int(np.prod(middle))
    image = Spec((spec.shape[0], length, 1, spec.shape[-1]), spec.dtype)
    y = use(reshaped(editor, x, image, f"{owner}_{suffix}_expand"), image)
    return reshaped(editor, y, spec, f"{owner}_{suffix}_squeeze")


def reshaped(editor: Editor, x: Ref, spec: Spec, name: str) -> Ref:
    """x in the shape of a spec, of which at most one size (after the batch) is unknown."""
    shape: Sequence[int] = [-1 if n is None else n for n in spec.shape[1:]]
    return editor.emit(_L.Reshape, x, spec, name, target_shape=tuple(shape))
