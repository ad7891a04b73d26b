"""Why a layer stays in float, and what to do about it."""

from __future__ import annotations

from qat_round._compat import keras
from qat_round.frontend.activations import label
from qat_round.frontend.graph import Part

_L = keras.layers


def why_not(part: Part) -> str:
    cls = part.origin.cls
    if cls is keras.layers.Lambda or cls.__name__.endswith("OpLambda"):
        return "a raw operator or Lambda, of which nothing is known; write it as a Keras layer"
    if not cls.__module__.startswith(("tf_keras.", "keras.", "qat_round.")):
        return "a custom layer; name its weights and outputs with qr.register_layer"
    if part.cls is _L.Activation:
        word = label(part.config["activation"])
        return f"TFLite has no integer operator for the activation {word!r}"
    return _ADVICE.get(cls, "TFLite has no integer operator that does what this layer does")


_UNROLLED = (
    "it is unrolled, which needs a fixed number of steps, no mask, no state between batches and no "
    "recurrent dropout: give the input a fixed length, keras.Input((steps, features))"
)
_ATTENTION = (
    "only attention over one axis, with masks of floats, can be put into integers: use sequences "
    "(batch, steps, features) and cast a given attention_mask to float32"
)
_RESIZED = (
    'TFLite resizes by interpolation="nearest" and "bilinear" alone: use one of these, or resize '
    "the images before they are given to the model"
)
_ADVICE = dict.fromkeys((_L.LSTM, _L.GRU, _L.SimpleRNN, _L.RNN, _L.Bidirectional), _UNROLLED) | {
    _L.MultiHeadAttention: _ATTENTION,
    _L.Attention: _ATTENTION,
    _L.UpSampling2D: _RESIZED,
    _L.Resizing: _RESIZED,
    _L.Conv3D: "TFLite's CONV_3D computes in float only",
    _L.Softmax: "softmax over other axes than the last; put a Permute in front",
}
