"""Ranges: which real interval a quantizer represents."""

from qat_round.quantizers.ranges import (
    AllValues,
    Fixed,
    LastValue,
    MovingAverage,
    Range,
    get_range,
    range_names,
)

__all__ = [
    "AllValues",
    "Fixed",
    "LastValue",
    "MovingAverage",
    "Range",
    "get_range",
    "range_names",
]
