"""The wrapper that the integer plan puts around every layer.

It is TFMOT's `QuantizeWrapperV2` for everyone who looks at a model, with three differences: it
builds without asking the layer for its output shape, it passes notes of grids on, and it saves what
it can load.
"""

from __future__ import annotations

import inspect
from typing import Any

from qat_round._compat import is_exporting, keras, smart_cond, tf
from qat_round.layers import integer_layers
from qat_round.layers.bias_rounding import is_half, with_bias_scale, with_rounded_bias
from qat_round.layers.shared_grid import held_in_float, on_noted_grid
from qat_round.layers.tfmot_wrapper import RoundingWrapper
from qat_round.numerics.kernel_sets import DEFAULT, roundings
from qat_round.numerics.tensor_info import GridNote, note_grid, noted_grid
from qat_round.quantizers.layer_quantizers import AVERAGES, KEEPS, OWN
from qat_round.quantizers.observers import is_bypassed
from qat_round.quantizers.weight_cache import once
from qat_round.quantizers.weight_lr_scale import set_paces

_L = keras.layers
_JOINING = (_L.Concatenate, _L.Maximum, _L.Minimum)


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
        whole = _is_inference(training) and not is_exporting() and not is_half(self)
        in_float = bool(self.quantize_config.why)
        exact = integer_layers.compute(self, inputs) if whole and not in_float else None
        if exact is not None:
            settled = self._on_grid(exact, inputs, training)
            return integer_layers.with_sums(self.layer, settled, exact)
        with with_rounded_bias(self, inputs, training) as settled:
            call = self.layer.call if self._weight_vars else self.layer
            outputs = call(settled, **kwargs)
        if in_float and self._output_quantizers:
            outputs = held_in_float(outputs, whole, roundings(self.kernels).given)
        return with_bias_scale(self, self._on_grid(outputs, inputs, training), inputs, training)

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
            return quantizer.infer(integer_layers.moved(self, x) if is_settled else x, state)

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
