"""Preflight's results as tables and as JSON."""
