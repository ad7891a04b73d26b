"""Grids, fake quantization, and the integer arithmetic of TFLite's kernels."""
