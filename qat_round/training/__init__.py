"""What moves ranges and weights: calibration, statistics, callbacks, searches."""
