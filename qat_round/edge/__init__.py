"""What a device makes of a file: TFLite-Micro, Ethos-U by Vela, LiteRT's time, a budget.

`run_micro` and `vela` need the extra: pip install 'qat_round[edge]'.
"""

from .budget import Budget, budget
from .micro import MicroRun, run_micro
from .npu import NpuReport, vela
from .operators import MICRO_OPERATORS, missing_operators
from .timing import Benchmark, benchmark

__all__ = [
    "MICRO_OPERATORS",
    "Benchmark",
    "Budget",
    "MicroRun",
    "NpuReport",
    "benchmark",
    "budget",
    "missing_operators",
    "run_micro",
    "vela",
]
