"""Intake: any Keras model in, an equal flat `tf_keras` Functional model out.

A model is read into a `Graph` (plain data), goes through a chain of small rewrites from graph to
graph, and is built once at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from qat_round.frontend import operators_arithmetic, operators_shape, operators_sizes  # noqa: F401
from qat_round.frontend.activations import pull_activations
from qat_round.frontend.batch_norm import fold_batch_norms
from qat_round.frontend.build import build
from qat_round.frontend.check_equal import check_equal
from qat_round.frontend.connected import require_connected
from qat_round.frontend.graph import Graph
from qat_round.frontend.load import ReferenceMissingError, open_model
from qat_round.frontend.operators import operators_as_layers
from qat_round.frontend.patterns import fuse_hard_activations, merge_affines, scales_as_affine
from qat_round.frontend.preprocessing import fold_preprocessings, preprocessing_as_affine
from qat_round.frontend.read import read
from qat_round.frontend.split import conv1ds_as_conv2d, split_separables
from qat_round.frontend.trace import is_functional, trace

REWRITES: tuple[Callable[[Graph], Graph], ...] = (
    operators_as_layers,
    scales_as_affine,
    preprocessing_as_affine,
    merge_affines,
    pull_activations,
    fuse_hard_activations,
)
"""What `to_functional` always does, in this order; each leaves the outputs equal."""


def to_functional(
    model: Any,
    *,
    safe_mode: bool = True,
    check: bool = True,
    fold_batch_norm: bool = False,
    fold_preprocessing: bool = False,
) -> Any:
    """An equal, flat `tf_keras` Functional model of any Keras model.

    Nested models are opened, bare operators and activation functions become layers, Keras 3 is
    translated. Layers keep their names (`outer_inner` where two would share one); operators that
    have no layer stay, see `recorded_operators`. The model given is not changed.

    Args:
        model: a `tf_keras` model (Functional, Sequential, nested, or subclassed if its `call` can
            be followed), a Keras 3 Functional or Sequential model, or the path of a `.keras` or
            `.h5` file or of a SavedModel folder that holds a Keras model.
        safe_mode: whether `Lambda` layers of files and of Keras 3 models are refused.
        check: whether outputs are compared on random input before the model is handed on.
        fold_batch_norm: whether batch norm goes into the layer in front, as `fold_batch_norm` does.
        fold_preprocessing: whether `Rescaling` and `Normalization` go into the first layer, as
            `fold_preprocessing` does; it makes training steps larger.

    Returns:
        A new Functional model with its own copies of the weights and the same structures of
        inputs and outputs.

    Raises:
        TypeError: if it is neither a model nor a path.
        ValueError: if the model is not built, is in unconnected parts, holds what `tf_keras` cannot
            do, or if the copy's outputs differ by more than 1e-5 of their spread.

    Example:
        >>> from qat_round._compat import keras, tf
        >>> x = keras.Input([4])
        >>> model = keras.Model(x, tf.nn.relu6(keras.layers.Dense(2)(x) * 2.0))
        >>> [type(layer).__name__ for layer in to_functional(model).layers]
        ['InputLayer', 'Dense', 'Affine', 'ReLU']
    """
    source = open_model(model, safe_mode=safe_mode)
    chosen = (
        *REWRITES,
        *([fold_preprocessings] if fold_preprocessing else []),
        *([fold_batch_norms] if fold_batch_norm else []),
    )
    functional = _rewritten(source.model, chosen)
    if check:
        _compare(functional, source.reference)
    return functional


def fold_batch_norm(model: Any) -> Any:
    """A copy whose batch norms are folded into the layers in front, in inference mode.

    y = k (w * x + b - mean) + beta with k = gamma / sqrt(variance + epsilon) becomes
    (k w) * x + (k (b - mean) + beta). A batch norm that follows no convolution or dense layer of
    its own becomes a per-channel `Affine`. Dropping the batch statistics changes training.

    Args:
        model: a `tf_keras` Functional or Sequential model.

    Returns:
        A new Functional model, equal in inference.

    Example:
        >>> from qat_round._compat import keras
        >>> layers = [keras.Input([4]), keras.layers.Dense(2), keras.layers.BatchNormalization()]
        >>> [type(layer).__name__ for layer in fold_batch_norm(keras.Sequential(layers)).layers]
        ['InputLayer', 'Dense']
    """
    return _rewritten(model, (fold_batch_norms,))


def fold_preprocessing(model: Any) -> Any:
    """A copy whose `Rescaling` and `Normalization` are folded into the first layer where equal.

    Equal where the first convolution or dense layer pads with nothing, or the offset is zero;
    elsewhere the preprocessing stays, as an `Affine`. The kernel is divided by the inputs' size,
    so that an optimizer's step moves it further: fold for inference, not before training.

    Args:
        model: a `tf_keras` Functional or Sequential model.

    Returns:
        A new Functional model.

    Example:
        >>> from qat_round._compat import keras
        >>> layers = [keras.Input([4]), keras.layers.Rescaling(1 / 255), keras.layers.Dense(2)]
        >>> [type(layer).__name__ for layer in fold_preprocessing(keras.Sequential(layers)).layers]
        ['InputLayer', 'Dense']
    """
    return _rewritten(model, (preprocessing_as_affine, merge_affines, fold_preprocessings))


def split_separable(model: Any) -> Any:
    """A copy whose `SeparableConv1D/2D` are `<name>_depthwise` and `<name>_pointwise`.

    Args:
        model: a `tf_keras` Functional or Sequential model.

    Returns:
        A new Functional model with equal outputs; causal padding is a `ZeroPadding1D` in front.

    Example:
        >>> from qat_round._compat import keras
        >>> layers = [keras.Input([8, 8, 3]), keras.layers.SeparableConv2D(2, 3, name="sep")]
        >>> [layer.name for layer in split_separable(keras.Sequential(layers)).layers][1:]
        ['sep_depthwise', 'sep_pointwise']
    """
    return _rewritten(model, (split_separables,))


def conv1d_as_conv2d(model: Any) -> Any:
    """A copy whose 1-D convolutions and poolings are 2-D ones of height 1, between reshapes.

    Args:
        model: a `tf_keras` Functional or Sequential model.

    Returns:
        A new Functional model with equal outputs; layers keep their names.

    Example:
        >>> from qat_round._compat import keras
        >>> layers = [keras.Input([8, 3]), keras.layers.Conv1D(2, 3, name="conv")]
        >>> [layer.name for layer in conv1d_as_conv2d(keras.Sequential(layers)).layers][1:]
        ['conv_expand', 'conv', 'conv_squeeze']
    """
    return _rewritten(model, (conv1ds_as_conv2d,))


def read_graph(model: Any, *, safe_mode: bool = True) -> Graph:
    """A model as a flat `Graph`, as it is."""
    return _graph(open_model(model, safe_mode=safe_mode).model, ())


def rewritten(graph: Graph) -> Graph:
    """A graph after all that `to_functional` always does."""
    for rewrite in REWRITES:
        graph = rewrite(graph)
    return graph


def _rewritten(model: Any, rewrites: tuple[Callable[[Graph], Graph], ...]) -> Any:
    return build(_graph(model, rewrites))


def _graph(model: Any, rewrites: tuple[Callable[[Graph], Graph], ...]) -> Graph:
    graph = read(model if is_functional(model) else trace(model))
    require_connected(graph)
    for rewrite in rewrites:
        graph = rewrite(graph)
    return graph


def _compare(functional: Any, reference: Callable[[Any], Any]) -> None:
    try:
        check_equal(functional, reference)
    except ReferenceMissingError as error:
        warnings.warn(f"Intake's copy was not compared with the original: {error}", stacklevel=3)
