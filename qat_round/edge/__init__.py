"""What a device makes of a file: TFLite-Micro, Ethos-U by Vela, LiteRT's time, a budget.

`run_micro` and `vela` need the extra: pip install 'qat_round[edge]'.
"""

from qat_round.edge.budget import Budget, budget
from qat_round.edge.micro import MicroRun, run_micro
from qat_round.edge.npu import NpuReport, vela
from qat_round.edge.operators import MICRO_OPERATORS, missing_operators
from qat_round.edge.timing import Benchmark, benchmark

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
