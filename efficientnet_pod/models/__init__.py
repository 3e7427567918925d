"""The networks, and the only place that imports Flax."""
