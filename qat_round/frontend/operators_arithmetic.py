"""Rules for elementwise operators: arithmetic with constants, merging, activations, casts."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Ref
from qat_round.frontend.operators import Op, is_constant, rule, same_rank, scalar
from qat_round.layers import activation_functions
from qat_round.layers.ops import Affine, Clip, MatMul


def _pair(op: Op) -> tuple[Any, Any]:
    x, y = op.get("x", "a", "value"), op.get("y", "b", "bias")
    return x, y


def _merge(op: Op, cls: type, x: Any, y: Any) -> list[Ref] | None:
    if not isinstance(x, Ref) or not isinstance(y, Ref) or not same_rank(op, [x, y]):
        return None
    if op.spec(x).rank == 0:
        return None
    return op.layer(cls, [x, y])


def _affine(op: Op, x: Ref, scale: Any = None, offset: Any = None) -> list[Ref] | None:
    """An `Affine`, if x holds floats and the constants leave its shape alone."""
    shape = op.spec(x).shape
    constants = [_fitted(c, shape) for c in (scale, offset) if c is not None]
    if not op.spec(x).floating or any(c is None for c in constants):
        return None
    values = iter(np.asarray(c).tolist() for c in constants)
    config = {"scale": scale, "offset": offset}
    return op.layer(
        Affine, x, **{k: None if v is None else next(values) for k, v in config.items()}
    )


def _fitted(constant: Any, shape: tuple | None) -> np.ndarray | None:
    """The constant without a batch axis, None where it would change x's shape."""
    array = np.asarray(constant, np.float64)
    if shape is None or array.ndim > len(shape) or not np.isfinite(array).all():
        return None
    if array.ndim == len(shape):
        if array.shape[:1] != (1,):
            return None if array.ndim else array
        array = array[0]
    tail = shape[len(shape) - array.ndim :]
    fits = all(c in (1, s) for c, s in zip(array.shape, tail, strict=True))
    return array if fits else None


@rule("add", "add_v2", "bias_add")
def _add(op: Op) -> list[Ref] | None:
    x, y = _pair(op)
    if isinstance(x, Ref) and is_constant(y):
        return _affine(op, x, offset=y)
    if isinstance(y, Ref) and is_constant(x):
        return _affine(op, y, offset=x)
    return _merge(op, keras.layers.Add, x, y)


@rule("add_n")
def _add_n(op: Op) -> list[Ref] | None:
    refs = op.get("inputs")
    ok = isinstance(refs, (list, tuple)) and all(isinstance(r, Ref) for r in refs)
    if not ok or len(refs) < 2 or not same_rank(op, list(refs)):
        return None
    return op.layer(keras.layers.Add, list(refs))


@rule("subtract")
def _subtract(op: Op) -> list[Ref] | None:
    x, y = _pair(op)
    if isinstance(x, Ref) and is_constant(y):
        return _affine(op, x, offset=-np.asarray(y, np.float64))
    if isinstance(y, Ref) and is_constant(x):
        return _affine(op, y, scale=-1.0, offset=x)
    return _merge(op, keras.layers.Subtract, x, y)


@rule("multiply")
def _multiply(op: Op) -> list[Ref] | None:
    x, y = _pair(op)
    if isinstance(x, Ref) and is_constant(y):
        return _affine(op, x, scale=y)
    if isinstance(y, Ref) and is_constant(x):
        return _affine(op, y, scale=x)
    return _merge(op, keras.layers.Multiply, x, y)


@rule("truediv", "divide", "div", "realdiv")
def _divide(op: Op) -> list[Ref] | None:
    x, y = _pair(op)
    if not isinstance(x, Ref) or not is_constant(y) or not np.all(np.asarray(y)):
        return None
    return _affine(op, x, scale=1.0 / np.asarray(y, np.float64))


@rule("negative")
def _negative(op: Op) -> list[Ref] | None:
    return _affine(op, op.get("x"), scale=-1.0)


@rule("square")
def _square(op: Op) -> list[Ref] | None:
    x = op.get("x")
    return op.layer(keras.layers.Multiply, [x, x]) if op.spec(x).rank else None


@rule("pow")
def _pow(op: Op) -> list[Ref] | None:
    return _square(op) if isinstance(op.get("x"), Ref) and scalar(op.get("y")) == 2.0 else None


@rule("maximum")
def _maximum(op: Op) -> list[Ref] | None:
    x, y = _pair(op)
    if isinstance(y, Ref) and not isinstance(x, Ref):
        x, y = y, x
    low = scalar(y)
    if isinstance(x, Ref) and low is not None:
        return op.layer(keras.layers.ReLU, x) if low == 0 else op.layer(Clip, x, low=low)
    return _merge(op, keras.layers.Maximum, x, y)


@rule("minimum")
def _minimum(op: Op) -> list[Ref] | None:
    x, y = _pair(op)
    if isinstance(y, Ref) and not isinstance(x, Ref):
        x, y = y, x
    high = scalar(y)
    if isinstance(x, Ref) and high is not None:
        return op.layer(Clip, x, high=high)
    return _merge(op, keras.layers.Minimum, x, y)


@rule("clip_by_value")
def _clip(op: Op) -> list[Ref] | None:
    x = op.get("t", "x")
    low = scalar(op.get("clip_value_min", "min_value"))
    high = scalar(op.get("clip_value_max", "max_value"))
    if not isinstance(x, Ref) or low is None or high is None or low > high:
        return None
    if low == 0.0 and op.spec(x).floating:
        return op.layer(keras.layers.ReLU, x, max_value=high)
    return op.layer(Clip, x, low=low, high=high)


def _source(op: Op) -> Any:
    return op.get("features", "x", "logits", "input", "value")


@rule("relu")
def _relu(op: Op) -> list[Ref] | None:
    config = {"negative_slope": op.get("alpha"), "threshold": op.get("threshold")}
    config = {k: float(v) for k, v in config.items() if v is not None}
    high = op.get("max_value")
    return op.layer(keras.layers.ReLU, _source(op), max_value=high, **config)


@rule("relu6")
def _relu6(op: Op) -> list[Ref] | None:
    return op.layer(keras.layers.ReLU, _source(op), max_value=6.0)


@rule("leaky_relu")
def _leaky_relu(op: Op) -> list[Ref] | None:
    alpha = scalar(op.get("alpha"))
    return None if alpha is None else op.layer(keras.layers.LeakyReLU, _source(op), alpha=alpha)


@rule("elu")
def _elu(op: Op) -> list[Ref] | None:
    alpha = op.get("alpha")
    return op.layer(keras.layers.ELU, _source(op), alpha=1.0 if alpha is None else float(alpha))


@rule("softmax")
def _softmax(op: Op) -> list[Ref] | None:
    axis = op.get("axis")
    return op.layer(keras.layers.Softmax, _source(op), axis=-1 if axis is None else int(axis))


@rule("silu", "swish")
def _silu(op: Op) -> list[Ref] | None:
    beta = op.get("beta")
    if beta is not None and scalar(beta) != 1.0:
        return None
    return op.layer(keras.layers.Activation, _source(op), activation="swish")


@rule("gelu")
def _gelu(op: Op) -> list[Ref] | None:
    approximate = activation_functions.gelu_tanh if op.get("approximate") else "gelu"
    return op.layer(keras.layers.Activation, _source(op), activation=approximate)


@rule("hard_sigmoid")
def _hard_sigmoid(op: Op) -> list[Ref] | None:
    """`tf_keras`'s: clip(0.2 x + 0.5, 0, 1)."""
    return op.layer(keras.layers.Activation, _source(op), activation="hard_sigmoid")


def _plain(name: str, activation: Any) -> None:
    @rule(name)
    def _activation(op: Op) -> list[Ref] | None:
        if not isinstance(_source(op), Ref):
            return None
        return op.layer(keras.layers.Activation, _source(op), activation=activation)


for _name in ("sigmoid", "tanh", "selu", "softplus", "softsign", "mish"):
    _plain(_name, _name)
_plain("exp", "exponential")
_plain("exponential", "exponential")
_plain("log_softmax", activation_functions.log_softmax)
_plain("log_sigmoid", activation_functions.log_sigmoid)


@rule("identity", "linear")
def _identity(op: Op) -> list[Ref] | None:
    x = _source(op)
    return op.same(x) if isinstance(x, Ref) else None


@rule("cast")
def _cast(op: Op) -> list[Ref] | None:
    x = op.get("x")
    return op.same(x) if isinstance(x, Ref) and op.spec(x).dtype == op.specs[0].dtype else None


@rule("matmul")
def _matmul(op: Op) -> list[Ref] | None:
    a, b = op.get("a"), op.get("b")
    odd = ("adjoint_a", "adjoint_b", "a_is_sparse", "b_is_sparse", "output_type")
    if not isinstance(a, Ref) or not isinstance(b, Ref) or any(op.get(name) for name in odd):
        return None
    flags = {key: bool(op.get(key)) for key in ("transpose_a", "transpose_b")}
    return op.layer(MatMul, [a, b], **flags)
