"""Accuracy at low bits, on real data."""
