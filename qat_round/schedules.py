"""Schedules: how a value changes over the steps of training."""

from qat_round.training.schedules import cosine, exponential, get, linear, piecewise

__all__ = ["cosine", "exponential", "get", "linear", "piecewise"]
