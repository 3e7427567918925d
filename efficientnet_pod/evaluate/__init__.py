"""Weights on images: exact rates, confusions, calibration; a predictor for a few images; latency."""
