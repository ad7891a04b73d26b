"""The public names, all of them: `import qat_round as qr` gives these."""

from qat_round import _compat, edge, ranges, schedules, testing
from qat_round.export.c_source import export_c
from qat_round.export.float16 import export_float16
from qat_round.export.onnx_qdq import export_onnx
from qat_round.export.tflite import export_tflite
from qat_round.files.metadata import add_metadata
from qat_round.frontend.write_back import write_back
from qat_round.lowering.register_layer import register_layer
from qat_round.models.adopt import adopt
from qat_round.models.annotate import annotate_layer, annotate_model, quantize_apply
from qat_round.models.coverage import Coverage, LayerCoverage, coverage
from qat_round.models.emulate_kernels import computed_by
from qat_round.models.int8_activations import lifted
from qat_round.models.load_model import load_model
from qat_round.models.precision import full_precision
from qat_round.models.quantize import quantize_model
from qat_round.models.strip import encodings, strip
from qat_round.models.tfmot_configs import RoundingConfig
from qat_round.models.tfmot_scheme import RoundingScheme
from qat_round.numerics.fake_quant import fake_quant
from qat_round.numerics.grid import Grid, grid_from_range
from qat_round.quantizers.model_spec import ModelSpec
from qat_round.quantizers.quantized_tensors import summary
from qat_round.quantizers.quantizer import RoundingQuantizer
from qat_round.quantizers.recipes import recipes
from qat_round.quantizers.spec import FLOAT, LayerSpec, TensorSpec
from qat_round.report.write_report import write_report
from qat_round.rounding import (
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
    round,
)
from qat_round.training.adaround import adaround
from qat_round.training.anneal import Anneal, knobs
from qat_round.training.batch_norm import reestimate_batch_norm
from qat_round.training.calibrate import calibrate
from qat_round.training.compare_rounders import RounderComparison, compare_rounders
from qat_round.training.distill import Distiller
from qat_round.training.lower_bits import LowerBits
from qat_round.training.oscillation import Dampening, FreezeOscillating, OscillationMonitor
from qat_round.training.paired_statistics import Interval, paired_difference
from qat_round.training.quantization_log import QuantizationLog
from qat_round.training.search_bits import BitSearch, search_bits
from qat_round.verify.compare_layers import LayerComparison, compare_layers
from qat_round.verify.parity import OutputParity, Parity
from qat_round.verify.verify_onnx import verify_onnx
from qat_round.verify.verify_tflite import verify_tflite

__all__ = [
    "Anneal",
    "BitSearch",
    "Coverage",
    "Dampening",
    "Distiller",
    "ElementWiseScaling",
    "ExpectedRound",
    "ExpectedThresholdRound",
    "FLOAT",
    "FourierRound",
    "FreezeOscillating",
    "Grid",
    "Interval",
    "LayerComparison",
    "LayerCoverage",
    "LayerSpec",
    "LearnedTanhRound",
    "LowerBits",
    "MixRound",
    "ModelSpec",
    "OscillationMonitor",
    "OutputParity",
    "Parity",
    "QuantizationLog",
    "RampRound",
    "Rounder",
    "RounderComparison",
    "RoundingConfig",
    "RoundingQuantizer",
    "RoundingScheme",
    "SigmoidRound",
    "SineRound",
    "StochasticRound",
    "StraightThrough",
    "TanhRound",
    "TensorSpec",
    "adaround",
    "add_metadata",
    "adopt",
    "annotate_layer",
    "annotate_model",
    "calibrate",
    "compare_layers",
    "compare_rounders",
    "computed_by",
    "coverage",
    "edge",
    "encodings",
    "export_c",
    "export_float16",
    "export_onnx",
    "export_tflite",
    "fake_quant",
    "full_precision",
    "get",
    "grid_from_range",
    "knobs",
    "lifted",
    "load_model",
    "mix",
    "names",
    "paired_difference",
    "quantize_apply",
    "quantize_model",
    "ranges",
    "recipes",
    "reestimate_batch_norm",
    "register",
    "register_layer",
    "round",
    "schedules",
    "search_bits",
    "strip",
    "summary",
    "testing",
    "verify_onnx",
    "verify_tflite",
    "write_back",
    "write_report",
]

_compat.register_objects(_compat.tfmot_objects())  # so that Keras's own load_model knows them
