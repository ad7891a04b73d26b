"""Keras layers of this package, the quantize wrapper, and integer inference."""
