"""Verbs on whole models: quantize, annotate, load, adopt, inspect, strip."""
