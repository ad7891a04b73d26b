"""The wrapper that the integer plan puts around every layer.

It is TFMOT's `QuantizeWrapperV2` for everyone who looks at a model, with three differences: it
builds without asking the layer for its output shape, it passes notes of grids on, and it saves what
it can load.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from . import exact_layers
from ._compat import (
    HALF_PRECISION,
    InputQuantizeLayer,
    QuantizeLayer,
    QuantizeWrapperV2,
    is_exporting,
    keras,
    smart_cond,
    tf,
)
from .exact import note_pending
from .grids import bias_slip, held_in_float, on_noted_grid
from .kernel_sets import DEFAULT, roundings
from .layer_quantizers import AVERAGES, KEEPS, OWN
from .notes import GridNote, SumNote, note_grid, note_sum, noted_grid, noted_sum
from .observing import is_bypassed
from .once import once
from .pace import set_paces
from .pending import Given
from .quantizers import RoundingQuantizer


@keras.utils.register_keras_serializable(package="qat_round")
class GridInput(InputQuantizeLayer):
    """An input that a RoundingQuantizer puts on its grid, at inference as QUANTIZE does."""

    kernels = DEFAULT  # which it computes as; `computed_by` sets it for a while

    def call(self, inputs: Any, training: Any = None) -> Any:
        given = tf.identity(inputs)
        pending = Given(given, roundings(self.kernels).given)
        return super().call(note_pending(given, pending), training)


@keras.utils.register_keras_serializable(package="qat_round")
class RoundingWrapper(QuantizeWrapperV2):  # type: ignore[misc, valid-type]
    """TFMOT's wrapper, with variables in `.keras` files that fit when the file is loaded.

    The original lists the inner layer's weights among its own, once or twice and in one order or
    another, depending on whether that layer was built before the wrapper; so what was saved, and
    the optimizer's state, does not fit what is loaded. And it goes on training frozen layers.
    """

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        super().build(input_shape)
        set_paces(self)

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        return super().trainable_weights if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        frozen = [] if self.trainable else self._trainable_weights
        return self._dedup_weights([*frozen, *super().non_trainable_weights])

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        if getattr(self.layer, "synchronized", False):  # Keras leaves it out
            config["layer"]["config"]["synchronized"] = True
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The same; an HDF5 file's reader looks for a class by `class_name` alone."""
        layer = config["layer"]
        name = layer.get("registered_name") or layer["class_name"]
        return super().from_config(config | {"layer": layer | {"class_name": name}})

    def save_own_variables(self, store: Any) -> None:
        for number, variable in enumerate(self._own_variables()):
            store[str(number)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        own = self._own_variables()
        if len(store.keys()) != len(own):
            raise ValueError(
                f"{self.name}: the file has {len(store.keys())} variables for this layer, but its "
                f"quantizers make {len(own)}: {[v.name for v in own]}."
            )
        for number, variable in enumerate(own):
            variable.assign(store[str(number)])

    def _own_variables(self) -> list[tf.Variable]:
        inner = {id(v) for v in self.layer._trainable_weights + self.layer._non_trainable_weights}
        mine = self._dedup_weights(self._trainable_weights + self._non_trainable_weights)
        return [v for v in mine if id(v) not in inner]

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        with _as_in_the_file(self, inputs, training) as settled:
            outputs = super().call(settled, training=training, **kwargs)
        if noted_grid(outputs) is None and type(self.layer) in _MOVING:
            note_grid(outputs, noted_grid(inputs))
        return _with_sums(self, outputs, inputs, training)


@keras.utils.register_keras_serializable(package="qat_round")
class AdoptedWrapper(RoundingWrapper):
    """Computes as TFMOT's wrapper does, so that what a model answers stays as it was."""

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        return super(RoundingWrapper, self).call(inputs, training=training, **kwargs)


_L = keras.layers
_JOINING = (_L.Concatenate, _L.Maximum, _L.Minimum)
_MOVING = frozenset(
    {_L.MaxPooling2D, _L.Flatten, _L.Reshape, _L.Permute, _L.ZeroPadding1D, _L.ZeroPadding2D}
    | {_L.Cropping1D, _L.Cropping2D, _L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D}
    | {_L.GlobalMaxPooling1D, _L.GlobalMaxPooling2D}
)  # layers that only move values, so that they stay on their grid


@contextlib.contextmanager
def _as_in_the_file(wrapper: Any, inputs: Any, training: Any) -> Iterator[Any]:
    """While open, the layer's bias is a whole number of its sums' steps, outside of training.

    Gives the layer's inputs, with the bias of sums in front of it put right as well. A graph that
    is exported is left as it is: the converter rounds its biases itself.
    """
    layer, sums = wrapper.layer, noted_sum(inputs)
    if _is_training(training) or is_exporting() or is_bypassed() or _is_half(wrapper):
        yield inputs
        return
    if sums is not None:
        inputs = _shifted(inputs, bias_slip(sums, layer), training)
    own = None if _is_open(wrapper) else _sums(wrapper, inputs)
    if own is None or own.bias is None:
        yield inputs
        return
    object.__setattr__(layer, "bias", _shifted(own.bias, bias_slip(own), training))
    try:
        yield inputs
    finally:
        object.__setattr__(layer, "bias", own.bias)


def _shifted(x: Any, slip: Any, training: Any) -> Any:
    if slip is None:
        return x
    training = keras.backend.learning_phase() if training is None else training
    x = tf.convert_to_tensor(x)
    return smart_cond(training, lambda: x, lambda: x + tf.cast(slip, x.dtype))


def _with_sums(wrapper: Any, outputs: Any, inputs: Any, training: Any) -> Any:
    if not _is_open(wrapper) or _is_training(training) or _is_half(wrapper):
        return outputs
    return note_sum(outputs, _sums(wrapper, inputs))


def _is_half(wrapper: Any) -> bool:
    """Whether it computes in half precision, which holds no sums to their last bit."""
    return wrapper.layer.compute_dtype in HALF_PRECISION


def _is_open(wrapper: Any) -> bool:
    """Whether the output is handed on without having been quantized."""
    activations = wrapper._quantize_activations
    inside = any(a._should_pre_quantize() or a._should_post_quantize() for a in activations)
    return not wrapper._output_quantizers and not inside


def _sums(wrapper: Any, inputs: Any) -> SumNote | None:
    """The scale of a linear layer's sums, and its bias; None where either side has no grid."""
    grid = noted_grid(inputs)
    if grid is None or not hasattr(wrapper.layer, "use_bias") or len(wrapper._weight_vars) != 1:
        return None
    _, quantizer, state = wrapper._weight_vars[0]
    if not hasattr(quantizer, "grid") or not hasattr(grid.quantizer, "grid"):
        return None
    step, by_channel = grid.quantizer.grid(grid.weights).step, quantizer.grid(state).step
    if step.shape.rank or (
        by_channel.shape.rank and by_channel.shape[0] not in (1, _outputs(wrapper))
    ):
        return None
    return SumNote(step * by_channel, wrapper.layer.bias if wrapper.layer.use_bias else None)


def _outputs(wrapper: Any) -> int:
    """How many channels the layer gives."""
    variable, layer = wrapper._weight_vars[0][0], wrapper.layer
    if isinstance(layer, (_L.DepthwiseConv1D, _L.DepthwiseConv2D)):
        return int(variable.shape[-1] * variable.shape[-2])
    transposed = isinstance(layer, (_L.Conv1DTranspose, _L.Conv2DTranspose))
    return int(variable.shape[-2 if transposed else -1])


def mend_saving(model: Any) -> Any:
    """Makes a model of TFMOT's reload from `.keras`: the classes above add behaviour, no state."""
    for layer in model.layers:
        if type(layer) is QuantizeLayer:
            ours = isinstance(layer.quantizer, RoundingQuantizer)
            layer.__class__ = GridInput if ours else InputQuantizeLayer
        elif type(layer) is QuantizeWrapperV2:
            layer.__class__ = RoundingWrapper
            set_paces(layer)
    return model


@keras.utils.register_keras_serializable(package="qat_round")
class GridWrapper(RoundingWrapper):
    """Quantizes a layer's weights and output, and keeps track of the grid that the output is on.

    Args:
        layer: the float layer.
        quantize_config: a LayerQuantizers.
        **kwargs: as for TFMOT's wrapper.
    """

    kernels = DEFAULT  # which it computes as; `computed_by` sets it for a while

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            with tf.name_scope(self.layer.name):
                self.layer.build(input_shape)
            self.layer.built = True
        self.built = True
        config = self.quantize_config
        self._trainable_weights.extend(self.layer.trainable_weights)
        variables = list(self.layer.weights)
        # Keras forgets variables that quantized values replace; some layers make theirs when called
        self.float_weights = lambda: variables if config.weights else list(self.layer.weights)
        self._quantize_activations: list[Any] = []
        self._weight_vars = [
            (weight, quantizer, quantizer.build(weight.shape, path.replace(".", "_"), self))
            for (weight, quantizer), path in zip(
                config.get_weights_and_quantizers(self.layer), config.weights, strict=True
            )
        ]
        self._output_quantizers = config.get_output_quantizers(self.layer)
        for quantizer in self._output_quantizers:
            self._output_quantizer_vars = quantizer.build(None, "output", self)
        set_paces(self)
        self._takes_training = "training" in inspect.signature(self.layer.call).parameters

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        if training is None:
            training = keras.backend.learning_phase()
        weights = [self._once(w, q, training, state) for w, q, state in self._weight_vars]
        self.quantize_config.set_quantize_weights(self.layer, weights)
        if self._takes_training:
            kwargs["training"] = training
        if isinstance(self.layer, _JOINING) and self._output_quantizers:
            inputs = self._on_one_grid(inputs, training)
        # the converter has to see the layers as they are
        whole = _is_inference(training) and not is_exporting() and not _is_half(self)
        in_float = bool(self.quantize_config.why)
        exact = exact_layers.compute(self, inputs) if whole and not in_float else None
        if exact is not None:
            settled = self._on_grid(exact, inputs, training)
            return exact_layers.with_sums(self.layer, settled, exact)
        with _as_in_the_file(self, inputs, training) as settled:
            call = self.layer.call if self._weight_vars else self.layer
            outputs = call(settled, **kwargs)
        if in_float and self._output_quantizers:
            outputs = held_in_float(outputs, whole, roundings(self.kernels).given)
        return _with_sums(self, self._on_grid(outputs, inputs, training), inputs, training)

    @staticmethod
    def _once(variable: Any, quantizer: Any, training: Any, state: Any) -> Any:
        return once(
            variable, state, training, lambda: _quantized(quantizer, variable, training, state)
        )

    def _on_one_grid(self, inputs: Any, training: Any) -> Any:
        """What is joined, on the output's grid before it is joined, as in the file.

        The converter would otherwise put all of it on the grid of one of the inputs.
        """
        if not _is_inference(training):
            return inputs
        quantizer, state = self._output_quantizers[0], self._output_quantizer_vars

        def settled(x: Any) -> Any:
            is_settled = noted_grid(x) is not None
            if is_settled and is_exporting():
                return x  # the converter moves it by itself
            return quantizer.infer(exact_layers.moved(self, x) if is_settled else x, state)

        return tf.nest.map_structure(settled, inputs)

    def _table_grid(self) -> GridNote | None:
        """The grid of the weights of an embedding, which it hands out."""
        if len(self._weight_vars) != 1 or self._weight_vars[0][1].per_axis:
            return None
        return GridNote(*self._weight_vars[0][1:])

    def _on_grid(self, outputs: Any, inputs: Any, training: Any) -> Any:
        kind = self.quantize_config.grid
        if kind == KEEPS:
            grid = self._table_grid() or noted_grid(inputs)
            return tf.nest.map_structure(lambda y: note_grid(y, grid), outputs)
        if kind == AVERAGES:
            up = isinstance(self.layer, (_L.UpSampling2D, _L.Resizing))
            return on_noted_grid(outputs, noted_grid(inputs), training, up)
        if kind != OWN:
            return outputs
        return _quantized(
            self._output_quantizers[0], outputs, training, self._output_quantizer_vars
        )


def _is_training(training: Any) -> bool:
    """Whether it is known that this is training, where biases are not rounded."""
    training = keras.backend.learning_phase() if training is None else training
    known = tf.get_static_value(training) if tf.is_tensor(training) else training
    return known is not None and bool(known)


def _is_inference(training: Any) -> bool:
    """Whether it is known that this is inference, of a model with its quantizers."""
    known = tf.get_static_value(training) if tf.is_tensor(training) else training
    return known is not None and not known and not is_bypassed()


def _quantized(quantizer: Any, x: Any, training: Any, state: Any) -> Any:
    return smart_cond(
        training,
        lambda: quantizer(x, True, weights=state),
        lambda: quantizer(x, False, weights=state),
    )
