"""Time and memory of kernels, steps, start-up."""
