"""Measurements: speed, accuracy, coverage, devices, peers; see README.md."""
