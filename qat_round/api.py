"""The public names, all of them: `import qat_round as qr` gives these."""

import sys

from . import _compat, edge, ranges, schedules, testing
from .adopt import adopt
from .affine import Grid, fake_quant, grid_from_range
from .calibrate import calibrate
from .callbacks import Anneal, knobs
from .compare import LayerComparison, compare_layers
from .configs import RoundingConfig
from .coverage import Coverage, LayerCoverage, coverage
from .export import export_tflite
from .firmware import export_c
from .intake import write_back
from .integer.custom import register_layer
from .model import annotate_layer, annotate_model, load_model, quantize_apply, quantize_model
from .monitors import QuantizationLog
from .onnx_file import export_onnx, verify_onnx
from .parity import OutputParity, Parity
from .quantizers import RoundingQuantizer
from .report import write_report
from .rounding import (
    ExpectedRound,
    FourierRound,
    RampRound,
    Rounder,
    SigmoidRound,
    SineRound,
    StochasticRound,
    StraightThrough,
    get,
    names,
    register,
    round,  # noqa: A004
)
from .scheme import RoundingScheme
from .spec import FLOAT, LayerSpec, ModelSpec, TensorSpec
from .strip import encodings, strip
from .tensors import summary
from .verify import verify_tflite

__all__ = [
    "Anneal",
    "Coverage",
    "ExpectedRound",
    "FLOAT",
    "FourierRound",
    "Grid",
    "LayerCoverage",
    "LayerComparison",
    "LayerSpec",
    "ModelSpec",
    "OutputParity",
    "Parity",
    "QuantizationLog",
    "RampRound",
    "Rounder",
    "RoundingConfig",
    "RoundingQuantizer",
    "RoundingScheme",
    "SigmoidRound",
    "SineRound",
    "StochasticRound",
    "StraightThrough",
    "TensorSpec",
    "adopt",
    "annotate_layer",
    "annotate_model",
    "calibrate",
    "coverage",
    "edge",
    "compare_layers",
    "encodings",
    "export_c",
    "export_onnx",
    "export_tflite",
    "fake_quant",
    "get",
    "grid_from_range",
    "knobs",
    "load_model",
    "names",
    "quantize_apply",
    "quantize_model",
    "ranges",
    "register",
    "register_layer",
    "round",
    "schedules",
    "strip",
    "summary",
    "testing",
    "verify_onnx",
    "verify_tflite",
    "write_back",
    "write_report",
]

_compat.register_objects(_compat.tfmot_objects())  # so that Keras's own load_model knows them

# where the package puts off its imports, submodules would stand in the place of their functions
vars(sys.modules[__package__]).update({name: globals()[name] for name in __all__})
