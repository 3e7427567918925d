"""Checkpoints: written by Orbax, verified by digests, moved aside when damaged."""
