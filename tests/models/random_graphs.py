"""Random Functional graphs: branches, shared and nested layers, several inputs and outputs.

`Growth` grows a graph from a catalogue, which says what may follow a tensor. `lowered_model` is one
of all the layers that have integer operators, `figures` what becomes of it in the `.tflite`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tf_keras as keras

from tests.models import layer_matrix

L = keras.layers
BINARY = ("Add", "Multiply", "Subtract", "Maximum", "Average", "Concatenate")
JOINS = BINARY[:-1]  # those that keep the shape
SHAPES = ((8, 8, 4), (8, 8, 3), (12, 6), (10, 4), (12,))
WIDEST, SAMPLES = 1024, 64  # values of one tensor, one example; how many examples
Step = Callable[[Any], Any]


@dataclasses.dataclass
class Growth:
    """Grows one graph.

    Args:
        library: `tf_keras`, or Keras 3.
        rng: NumPy's generator.
        following: what may follow a tensor: a layer, or a function of tensors.
        binary: the names of layers that join two tensors.
        steps: how many tensors there will be.
        depth: how deep models are nested.
    """

    library: Any
    rng: np.random.Generator
    following: Callable[[np.random.Generator, Any], Step]
    binary: Sequence[str] = BINARY
    steps: int = 8
    depth: int = 2

    def model(self, shapes: Sequence[tuple[int, ...]]) -> Any:
        """A model of inputs of these shapes; outputs: a head of all, and perhaps a tensor midway.

        Each step takes an earlier tensor and a new, old or nested layer.
        """
        inputs = [self.library.Input(shape) for shape in shapes]
        tensors: list[Any] = list(inputs)
        used: list[tuple[Any, Any]] = []
        for _ in range(self.steps):
            x = tensors[max(0, len(tensors) - 1 - int(self.rng.integers(0, 3)))]
            tensors.append(self._next(x, tensors, used))
        outputs = [self._head([tensors[-1], *inputs])]
        if self.rng.random() < 0.5:
            outputs.append(tensors[len(inputs) + self.steps // 2])
        return self.library.Model(inputs, outputs)

    def _next(self, x: Any, tensors: list[Any], used: list[tuple[Any, Any]]) -> Any:
        kind, fitting = self.rng.random(), [layer for layer, shape in used if shape == x.shape]
        alike = [t for t in tensors if t.shape == x.shape and t is not x]
        if kind < 0.2 and alike:
            return getattr(self.library.layers, self._one(self.binary))()([x, self._one(alike)])
        if kind < 0.3 and fitting:
            return self._one(fitting)(x)
        step = self._nested(x.shape, self.depth) if kind > 0.85 else self.following(self.rng, x)
        if isinstance(step, self.library.layers.Layer):
            used.append((step, x.shape))
        return step(x)

    def _nested(self, shape: Any, depth: int) -> Any:
        x = y = self.library.Input(tuple(shape[1:]))
        for _ in range(2):
            y = self.following(self.rng, y)(y)
        if depth > 1 and self.rng.random() < 0.5:
            y = self._nested(y.shape, depth - 1)(y)
        return self.library.Model(x, y)

    def _head(self, tensors: list[Any]) -> Any:
        flat = [self.library.layers.Flatten()(x) for x in tensors]
        joined = self.library.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
        return self.library.layers.Dense(6)(joined)

    def _one(self, among: Sequence[Any]) -> Any:
        return among[int(self.rng.integers(len(among)))]


def following(rng: np.random.Generator, x: Any) -> Step:
    """A layer of the layer matrix that fits a tensor, and does not make it too small or wide."""
    made: dict[int, Callable[..., list[Step]]] = {4: _on_images, 3: _on_sequences, 2: _on_vectors}
    *sizes, channels = x.shape[1:]
    by_kind = [made[len(x.shape)](channels), _anywhere(len(x.shape))]
    if sizes and min(sizes) >= 6:
        by_kind.append(_smaller(len(sizes), channels))
    if sizes and np.prod(x.shape[1:]) * 4 <= WIDEST:
        by_kind.append(_larger(len(sizes), channels))
    if len(sizes) == 1 and sizes[0] <= 12 and rng.random() < 0.15:
        by_kind = [_recurrent()]
    kind = by_kind[int(rng.integers(len(by_kind)))]
    return kind[int(rng.integers(len(kind)))]


def _anywhere(rank: int) -> list[Step]:
    """Layers that keep the shape, whatever it is."""
    shared = list(range(1, rank - 1)) or None
    words = ("gelu", "tanh", "sigmoid", "swish", "softmax", "relu", "selu", "hard_sigmoid")
    return [
        *(L.Activation(word) for word in words),
        L.PReLU(shared_axes=shared),
        L.ELU(),
        L.ReLU(6.0),
        L.LeakyReLU(0.1),
        L.Softmax(),
        L.Dropout(0.1),
        L.LayerNormalization(),
        *(L.BatchNormalization(momentum=0.1) for _ in range(4)),
        *(L.Dense(5, word) for word in ("linear", "relu", "elu")),
        lambda y: y * L.ReLU(6.0)(y + 3.0) * (1.0 / 6.0),
        lambda y: y * 0.5 + 0.25,
    ]


def _on_images(channels: int) -> list[Step]:
    return [
        L.Conv2D(channels, 3, padding="same", activation="relu"),
        L.Conv2D(4, 3, padding="same", dilation_rate=2),
        L.Conv2D(6, 1, activation="gelu"),
        L.DepthwiseConv2D(3, padding="same", activation="relu6"),
        L.SeparableConv2D(channels, 3, padding="same", activation="elu"),
        L.Permute((2, 1, 3)),
        L.MaxPooling2D(3, 1, padding="same"),
        L.AveragePooling2D(3, 1, padding="same"),
        lambda y: L.Reshape((-1, y.shape[-1]))(y),
        lambda y: y * L.Conv2D(channels, 1, activation="sigmoid")(_pooled(y)),
    ]


def _pooled(y: Any) -> Any:
    return L.GlobalAveragePooling2D(keepdims=True)(y)


def _on_sequences(channels: int) -> list[Step]:
    return [
        L.Conv1D(channels, 3, padding="causal"),
        L.Conv1D(6, 3, padding="same", activation="relu"),
        L.DepthwiseConv1D(3, padding="same"),
        L.SeparableConv1D(channels, 3, padding="same"),
        L.Permute((2, 1)),
        L.GlobalAveragePooling1D(),
        L.GlobalMaxPooling1D(),
        lambda y: L.Reshape((y.shape[1], 1, y.shape[2]))(y),
        lambda y: L.MultiHeadAttention(2, 4)(y, y),
        lambda y: L.Attention(use_scale=True)([y, L.Dense(channels)(y)]),
    ]


def _on_vectors(channels: int) -> list[Step]:
    return [L.Dense(12, "relu"), L.Dense(channels), L.RepeatVector(4), L.Dense(8, "gelu")]


def _recurrent() -> list[Step]:
    return [
        L.LSTM(4, return_sequences=True),
        L.GRU(4, return_sequences=True),
        L.LSTM(5),
        L.Bidirectional(L.GRU(3)),
    ]


def _smaller(rank: int, channels: int) -> list[Step]:
    conv = getattr(L, f"Conv{rank}D")
    return [
        conv(channels, 3),
        conv(6, 3, strides=2, padding="same", activation="relu"),
        getattr(L, f"MaxPooling{rank}D")(),
        getattr(L, f"AveragePooling{rank}D")(),
        getattr(L, f"Cropping{rank}D")(1),
    ]


def _larger(rank: int, channels: int) -> list[Step]:
    steps: list[Step] = [
        getattr(L, f"Conv{rank}DTranspose")(channels, 3, strides=2, padding="same"),
        getattr(L, f"UpSampling{rank}D")(),
        getattr(L, f"ZeroPadding{rank}D")(1),
    ]
    return steps + ([L.UpSampling2D(interpolation="bilinear")] if rank == 2 else [])


def lowered_model(seed: int, sizes: tuple[int, int] = (6, 13)) -> tuple[Any, list[np.ndarray]]:
    """A random model and its inputs, with batch-norm statistics of these.

    Args:
        seed: says which.
        sizes: how many tensors it has: from, and below.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    shapes = [SHAPES[int(i)] for i in rng.integers(len(SHAPES), size=rng.integers(1, 3))]
    model = Growth(keras, rng, following, steps=int(rng.integers(*sizes))).model(shapes)
    inputs = [layer_matrix.data(s, SAMPLES, seed=seed + i) for i, s in enumerate(shapes)]
    _scatter(model, rng)
    for _ in range(3):
        model(inputs if len(inputs) > 1 else inputs[0], training=True)
    return model, inputs


def _scatter(model: Any, rng: np.random.Generator) -> None:
    """Biases, gains and slopes that are not all 0 or 1."""
    for weight in model.weights:
        name = weight.name.split(":")[0].split("/")[-1]
        if name in ("bias", "beta"):
            weight.assign(rng.normal(0.0, 0.2, weight.shape))
        elif name in ("gamma", "alpha"):
            weight.assign(rng.uniform(0.2, 1.2, weight.shape))


def figures(seed: int, sizes: tuple[int, int] = (6, 13)) -> dict[str, Any]:
    """What becomes of a random model: equal in intake, integer in the file, and how near."""
    import qat_round as qr
    from qat_round.frontend.check_equal import parity
    from qat_round.frontend.to_functional import to_functional

    model, inputs = lowered_model(seed, sizes)
    given = inputs if len(inputs) > 1 else inputs[0]
    differs = parity(to_functional(model, check=False), model)
    quantized = qr.quantize_model(model)
    qr.calibrate(quantized, given)
    tflite = qr.export_tflite(quantized)
    parity = qr.verify_tflite(quantized, tflite, given, allow_float=True)
    layers = qr.compare_layers(quantized, tflite, given)
    values = [SAMPLES * int(np.prod(y.shape[1:])) for y in quantized.outputs]
    same = float(np.dot(values, [output.same for output in parity.outputs]))
    first = layers.first_parting
    return {
        "layers": len(list(model._flatten_layers(include_self=False))),
        "intake differs by": differs,
        "float operators": ", ".join(f"{n} {name}" for name, n in parity.float_operators.items()),
        "values": sum(values),
        "same %": 100.0 * same / sum(values),
        "furthest": parity.max_steps,
        "operators furthest": layers.own_max_steps,
        "first to part": "" if first is None else f"{first.layer} ({first.operator})",
    }
