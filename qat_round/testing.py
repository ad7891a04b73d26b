"""Checks that a rounding method of your own keeps the laws of all methods."""

from qat_round.rounding.contract import LAWS, LawBroken, check_rounder

__all__ = ["LAWS", "LawBroken", "check_rounder"]
