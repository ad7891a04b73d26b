"""TFMOT's quantize wrapper, with variables that reload from `.keras` files."""

from __future__ import annotations

from typing import Any

from qat_round._compat import InputQuantizeLayer, QuantizeLayer, QuantizeWrapperV2, keras, tf
from qat_round.layers.bias_rounding import with_bias_scale, with_rounded_bias
from qat_round.numerics.accumulators import Given
from qat_round.numerics.integer_tensors import note_pending
from qat_round.numerics.kernel_sets import DEFAULT, roundings
from qat_round.numerics.tensor_info import note_grid, noted_grid
from qat_round.quantizers.quantizer import RoundingQuantizer
from qat_round.quantizers.weight_lr_scale import set_paces

_L = keras.layers


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
        """Finds registered classes: the reader of HDF5 files looks at `class_name` only."""
        layer = config["layer"]
        name = layer.get("registered_name")
        if keras.utils.get_registered_object(name) is not None:
            config = config | {"layer": layer | {"class_name": name}}
        return super().from_config(config)

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
        with with_rounded_bias(self, inputs, training) as settled:
            outputs = super().call(settled, training=training, **kwargs)
        if noted_grid(outputs) is None and type(self.layer) in _MOVING:
            note_grid(outputs, noted_grid(inputs))
        return with_bias_scale(self, outputs, inputs, training)


@keras.utils.register_keras_serializable(package="qat_round")
class AdoptedWrapper(RoundingWrapper):
    """Computes as TFMOT's wrapper does, so that what a model answers stays as it was."""

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        return super(RoundingWrapper, self).call(inputs, training=training, **kwargs)


_MOVING = frozenset(
    {_L.MaxPooling2D, _L.Flatten, _L.Reshape, _L.Permute, _L.ZeroPadding1D, _L.ZeroPadding2D}
    | {_L.Cropping1D, _L.Cropping2D, _L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D}
    | {_L.GlobalMaxPooling1D, _L.GlobalMaxPooling2D}
)  # layers that only move values, so that they stay on their grid


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
