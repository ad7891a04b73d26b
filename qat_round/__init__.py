"""Quantization-aware training for Keras with differentiable rounding, on top of TFMOT.

import qat_round as qr
q = qr.quantize_model(model, rounder="sine")
qr.calibrate(q, x_train[:512])
q.compile(...); q.fit(...)
qr.export_tflite(q, "model.tflite", io="int8")
print(qr.verify_tflite(q, "model.tflite", x_test).table())
"""

from . import _compat, ranges, schedules, testing
from .adaround import adaround
from .adopt import adopt
from .affine import Grid, fake_quant, grid_from_range
from .bakeoff import RounderComparison, compare_rounders
from .batch_norm import reestimate_batch_norm
from .calibrate import calibrate
from .callbacks import Anneal, knobs
from .compare import LayerComparison, compare_layers
from .configs import RoundingConfig
from .coverage import Coverage, LayerCoverage, coverage
from .distill import Distiller
from .export import export_tflite
from .intake import write_back
from .integer.custom import register_layer
from .lift import lifted
from .lower_bits import LowerBits
from .model import annotate_layer, annotate_model, load_model, quantize_apply, quantize_model
from .oscillation import Dampening, FreezeOscillating, OscillationMonitor
from .parity import OutputParity, Parity
from .quantizers import RoundingQuantizer
from .recipes import recipes
from .rounding import (
    ElementWiseScaling,
    ExpectedRound,
    ExpectedThresholdRound,
    FourierRound,
    LearnedTanhRound,
    MixRound,
    RampRound,
    Rounder,
    SigmoidRound,
    SineRound,
    StochasticRound,
    StraightThrough,
    TanhRound,
    get,
    mix,
    names,
    register,
    round,  # noqa: A004
)
from .scheme import RoundingScheme
from .search_bits import BitSearch, search_bits
from .spec import FLOAT, LayerSpec, ModelSpec, TensorSpec
from .statistics import Interval, paired_difference
from .tensors import summary
from .verify import verify_tflite

__version__ = "0.1.0"

__all__ = [
    "adaround",
    "adopt",
    "Anneal",
    "annotate_layer",
    "annotate_model",
    "BitSearch",
    "calibrate",
    "compare_layers",
    "compare_rounders",
    "Coverage",
    "coverage",
    "Dampening",
    "Distiller",
    "ElementWiseScaling",
    "ExpectedRound",
    "ExpectedThresholdRound",
    "export_tflite",
    "fake_quant",
    "FLOAT",
    "FourierRound",
    "FreezeOscillating",
    "get",
    "Grid",
    "grid_from_range",
    "Interval",
    "knobs",
    "LayerComparison",
    "LayerCoverage",
    "LayerSpec",
    "LearnedTanhRound",
    "lifted",
    "load_model",
    "LowerBits",
    "mix",
    "MixRound",
    "ModelSpec",
    "names",
    "OscillationMonitor",
    "OutputParity",
    "paired_difference",
    "Parity",
    "quantize_apply",
    "quantize_model",
    "RampRound",
    "ranges",
    "recipes",
    "reestimate_batch_norm",
    "register",
    "register_layer",
    "round",
    "Rounder",
    "RounderComparison",
    "RoundingConfig",
    "RoundingQuantizer",
    "RoundingScheme",
    "schedules",
    "search_bits",
    "SigmoidRound",
    "SineRound",
    "StochasticRound",
    "StraightThrough",
    "summary",
    "TanhRound",
    "TensorSpec",
    "testing",
    "verify_tflite",
    "write_back",
]

_compat.register_objects(_compat.tfmot_objects())  # so that Keras's own load_model knows them
