"""Sony's Model Compression Toolkit: its QAT in Keras, thresholds by squared error, BN folded.

The bits of a layer are those of a target platform, so one is described here: kernels at W (for each
channel, all levels), ReLU outputs and the pooled vector at A, input and logits at 8 bits.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from typing import Any

import model_compression_toolkit as mct
import numpy as np
import tensorflow as tf
from model_compression_toolkit.core import CoreConfig, CustomOpsetLayers, QuantizationConfig
from model_compression_toolkit.target_platform_capabilities import QuantizationMethod
from model_compression_toolkit.target_platform_capabilities.constants import BIAS_ATTR, KERNEL_ATTR
from model_compression_toolkit.target_platform_capabilities.schema import (
    mct_current_schema as schema,
)

from benchmarks.peers.common import BATCH, CALIBRATION, Data, accuracy, fine_tune, float_net, main

keras = tf.keras
Names = schema.OperatorSetNames


def run(weights: list[np.ndarray], bits: tuple[int, int], data: Data) -> dict[str, Any]:
    """Quantizes, trains, evaluates; there is no batch norm left whose statistics could be off."""

    def representative() -> Iterator[list[np.ndarray]]:
        for at in range(0, CALIBRATION, BATCH):
            yield [data.train[at : at + BATCH]]

    pooled = CustomOpsetLayers([keras.layers.GlobalAveragePooling2D])
    core = CoreConfig(QuantizationConfig(custom_tpc_opset_to_layer={"Pooled": pooled}))
    model, _, _ = mct.qat.keras_quantization_aware_training_init_experimental(
        float_net(keras, weights),
        representative,
        core_config=core,
        target_platform_capabilities=platform(*bits),
    )
    fine_tune(keras, model, data)
    model = mct.qat.keras_quantization_aware_training_finalize_experimental(model)
    found = accuracy(model, data)
    return {"as_trained": found, "exact": found}


def platform(weight_bits: int, activation_bits: int) -> Any:
    """The target platform with these bits."""
    eight = schema.QuantizationConfigOptions(quantization_configurations=(_operator(8, 8),))
    few = schema.QuantizationConfigOptions(
        quantization_configurations=(_operator(8, activation_bits),)
    )
    linear = schema.QuantizationConfigOptions(
        quantization_configurations=(_operator(weight_bits, 8),)
    )
    conv = schema.OperatorsSet(name=Names.CONV, qc_options=linear)
    relu = schema.OperatorsSet(name=Names.RELU, qc_options=few)
    norm = schema.OperatorsSet(name=Names.BATCH_NORM, qc_options=eight)
    return schema.TargetPlatformCapabilities(
        default_qco=eight,
        operator_set=(
            conv,
            relu,
            norm,
            schema.OperatorsSet(name=Names.FULLY_CONNECTED, qc_options=linear),
            schema.OperatorsSet(name="Pooled", qc_options=few),
        ),
        fusing_patterns=(
            schema.Fusing(operator_groups=(conv, relu)),
            schema.Fusing(operator_groups=(conv, norm, relu)),
        ),
        add_metadata=False,
        name="few_bits",
    )


def _operator(weight_bits: int, activation_bits: int) -> Any:
    def attribute(bits: int, is_quantized: bool) -> Any:
        return schema.AttributeQuantizationConfig(
            weights_quantization_method=QuantizationMethod.SYMMETRIC,
            weights_n_bits=bits,
            weights_per_channel_threshold=is_quantized,
            enable_weights_quantization=is_quantized,
        )

    return schema.OpQuantizationConfig(
        default_weight_attr_config=attribute(32, False),
        attr_weights_configs_mapping={
            KERNEL_ATTR: attribute(weight_bits, True),
            BIAS_ATTR: attribute(32, False),
        },
        activation_quantization_method=QuantizationMethod.UNIFORM,
        activation_n_bits=activation_bits,
        supported_input_activation_n_bits=(2, 3, 4, 8),
        enable_activation_quantization=True,
        quantization_preserving=False,
        simd_size=32,
        signedness=schema.Signedness.AUTO,
    )


if __name__ == "__main__":
    version = importlib.metadata.version("model-compression-toolkit")
    sys.exit(main(f"MCT {version}", keras.utils.set_random_seed, run))
