"""The public names, all of them: `import qat_round as qr` gives these."""

import sys

from . import (
    _compat,
    edge,
    ranges,
    schedules,
    testing,
)
from .adaround import (
    adaround,
)
from .adopt import (
    adopt,
)
from .affine import (
    Grid,
    grid_from_range,
)
from .bakeoff import (
    RounderComparison,
    compare_rounders,
)
from .batch_norm import (
    reestimate_batch_norm,
)
from .calibrate import (
    calibrate,
)
from .callbacks import (
    Anneal,
    knobs,
)
from .compare import (
    LayerComparison,
    compare_layers,
)
from .computing import (
    computed_by,
)
from .configs import (
    RoundingConfig,
)
from .coverage import (
    Coverage,
    LayerCoverage,
    coverage,
)
from .distill import (
    Distiller,
)
from .export import (
    export_tflite,
)
from .fake_quantization import (
    fake_quant,
)
from .file_metadata import (
    add_metadata,
)
from .firmware import (
    export_c,
)
from .float16 import (
    export_float16,
)
from .intake import (
    write_back,
)
from .integer.custom import (
    register_layer,
)
from .lift import (
    lifted,
)
from .lower_bits import (
    LowerBits,
)
from .model import (
    annotate_layer,
    annotate_model,
    load_model,
    quantize_apply,
    quantize_model,
)
from .model_spec import (
    ModelSpec,
)
from .monitors import (
    QuantizationLog,
)
from .onnx_file import (
    export_onnx,
    verify_onnx,
)
from .oscillation import (
    Dampening,
    FreezeOscillating,
    OscillationMonitor,
)
from .parity import (
    OutputParity,
    Parity,
)
from .precision import (
    full_precision,
)
from .quantizers import (
    RoundingQuantizer,
)
from .recipes import (
    recipes,
)
from .report import (
    write_report,
)
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
from .scheme import (
    RoundingScheme,
)
from .search_bits import (
    BitSearch,
    search_bits,
)
from .spec import (
    FLOAT,
    LayerSpec,
    TensorSpec,
)
from .statistics import (
    Interval,
    paired_difference,
)
from .strip import (
    encodings,
    strip,
)
from .tensors import (
    summary,
)
from .verify import (
    verify_tflite,
)

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

# where the package puts off its imports, submodules would stand in the place of their functions
vars(sys.modules[__package__]).update({name: globals()[name] for name in __all__})
