"""TFMOT's experimental n-bit scheme, as it comes: annotate, apply, compile, fit.

Its input and logits have as many bits as the other activations; ranges start at -6..6.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from benchmarks.peers.common import (
    Data,
    accuracy,
    fine_tune,
    float_net,
    main,
    with_exact_statistics,
)

tfmot_keras = tfmot.quantization.keras
n_bit = tfmot_keras.experimental.default_n_bit


def run(weights: list[np.ndarray], bits: tuple[int, int], data: Data) -> dict[str, Any]:
    """Quantizes, trains, evaluates."""
    scheme = n_bit.DefaultNBitQuantizeScheme(num_bits_weight=bits[0], num_bits_activation=bits[1])
    annotated = tfmot_keras.quantize_annotate_model(float_net(keras, weights))
    with tfmot_keras.quantize_scope():
        model = tfmot_keras.quantize_apply(annotated, scheme)
    fine_tune(keras, model, data)
    found = {"as_trained": accuracy(model, data)}
    return found | {"exact": accuracy(with_exact_statistics(keras, model, data), data)}


if __name__ == "__main__":
    sys.exit(main(f"TFMOT {tfmot.__version__} n-bit", keras.utils.set_random_seed, run))
