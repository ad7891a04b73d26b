"""Layers in the form in which TFLite's converter finds their bias, and needs no more operators.

The converter makes a bias part of its operator only where it directly follows it. Keras adds it
behind the reshaping of a dilated convolution's blocks, and of a sequence seen as an image; there
the operator would be left in float, unless the bias is zero throughout.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from qat_round._compat import deconv_output_length, is_exporting, keras, tf
from qat_round.frontend.graph import Part

_L = keras.layers


class _Dilated:
    """In a graph for the converter, the dilation is the operator's own.

    Elsewhere it is not: TensorFlow has no gradient of that on CPUs.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if not is_exporting() or self.groups != 1 or self.data_format == "channels_first":  # type: ignore[attr-defined]
            return super().convolution_op(inputs, kernel)  # type: ignore[misc]
        padding = "VALID" if self.padding == "causal" else self.padding.upper()  # type: ignore[attr-defined]
        convolve = tf.nn.conv1d if self.rank == 1 else tf.nn.conv2d  # type: ignore[attr-defined]
        strides, dilations = list(self.strides), list(self.dilation_rate)  # type: ignore[attr-defined]
        return convolve(inputs, kernel, strides, padding, dilations=dilations)


@keras.utils.register_keras_serializable(package="qat_round")
class DilatedConv1D(_Dilated, _L.Conv1D):  # type: ignore[misc, name-defined]
    """A dilated convolution in one operator."""


@keras.utils.register_keras_serializable(package="qat_round")
class DilatedConv2D(_Dilated, _L.Conv2D):  # type: ignore[misc, name-defined]
    """A dilated convolution in one operator."""


@keras.utils.register_keras_serializable(package="qat_round")
class DilatedDepthwiseConv2D(_L.DepthwiseConv2D):  # type: ignore[misc, name-defined]
    """A dilated depthwise convolution in one operator."""

    def call(self, inputs: Any) -> Any:
        if not is_exporting() or self.data_format == "channels_first":
            return super().call(inputs)
        y = tf.raw_ops.DepthwiseConv2dNative(
            input=inputs,
            filter=self.depthwise_kernel,
            strides=[1, *self.strides, 1],
            padding=self.padding.upper(),
            dilations=[1, *self.dilation_rate, 1],
        )
        if self.use_bias:
            y = tf.nn.bias_add(y, self.bias)
        return y if self.activation is None else self.activation(y)


@keras.utils.register_keras_serializable(package="qat_round")
class StepConv1DTranspose(_L.Conv1DTranspose):  # type: ignore[misc, name-defined]
    """A transposed convolution of sequences, the bias added while they are images."""

    def call(self, inputs: Any) -> Any:
        (size,), (stride,), padding = self.kernel_size, self.strides, self.padding
        length = deconv_output_length(
            tf.shape(inputs)[1] if inputs.shape[1] is None else inputs.shape[1],
            size, padding=padding, output_padding=None, stride=stride,
        )  # fmt: skip
        shape = [tf.shape(inputs)[0], 1, length, self.filters]
        y = tf.nn.conv2d_transpose(
            inputs[:, tf.newaxis], self.kernel[tf.newaxis], shape, [1, stride], padding.upper()
        )
        if self.use_bias:
            y = tf.nn.bias_add(y, self.bias)
        return tf.squeeze(y if self.activation is None else self.activation(y), [1])


@keras.utils.register_keras_serializable(package="qat_round")
class FixedReshape(_L.Reshape):  # type: ignore[misc, name-defined]
    """A reshape by constants alone: Keras's reads the batch's size, which is six operators more."""

    def call(self, inputs: Any) -> Any:
        if not is_exporting():
            return super().call(inputs)
        sizes = self.compute_output_shape(inputs.shape).as_list()[1:]
        if None in sizes:
            return super().call(inputs)
        result = tf.reshape(inputs, [-1, *sizes])
        result.set_shape([inputs.shape[0], *sizes])
        return result


def for_converter(part: Part) -> Part:
    """The part, of a class whose bias the converter finds and that needs no sizes at run time."""
    cls, config = part.cls, part.config
    if cls is _L.Reshape:
        return dataclasses.replace(part, cls=FixedReshape)
    rates = tuple(config.get("dilation_rate", ())) if cls in _DILATED else ()
    if set(rates) - {1}:
        return dataclasses.replace(part, cls=_DILATED[cls])
    plain = config.get("data_format") != "channels_first" and not config.get("output_padding")
    if cls is _L.Conv1DTranspose and plain and set(config.get("dilation_rate", (1,))) == {1}:
        return dataclasses.replace(part, cls=StepConv1DTranspose)
    return part


_DILATED: dict[type, type] = {
    _L.Conv1D: DilatedConv1D,
    _L.Conv2D: DilatedConv2D,
    _L.DepthwiseConv2D: DilatedDepthwiseConv2D,
}
