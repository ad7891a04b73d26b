"""Quantization-aware training for Keras with differentiable rounding, on top of TFMOT.

import qat_round as qr
q = qr.quantize_model(model, rounder="sine")
qr.calibrate(q, x_train[:512])
q.compile(...); q.fit(...)
qr.export_tflite(q, "model.tflite", io="int8")
print(qr.verify_tflite(q, "model.tflite", x_test).table())
"""

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # has to be set before TensorFlow is imported

# TensorFlow takes seconds to import. The command line puts it off until it is needed; everybody
# else has it now, so that Keras's own `load_model` knows our classes after `import qat_round`.
_PROGRAM = os.path.basename((getattr(sys, "argv", None) or [""])[0])  # "-m": python -m qat_round

if TYPE_CHECKING or not (_PROGRAM == "-m" or _PROGRAM.startswith("qat-round")):
    from qat_round.api import *  # noqa: F403
    from qat_round.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'qat_round' has no attribute {name!r}")
        if importlib.util.find_spec(f"qat_round.{name}"):
            return importlib.import_module(f"qat_round.{name}")
        return getattr(importlib.import_module("qat_round.api"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *importlib.import_module("qat_round.api").__all__})
