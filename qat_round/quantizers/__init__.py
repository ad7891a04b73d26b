"""Quantizers: range, grid, rounder and state; and the specs that describe them."""
