"""A training run from start to end, in the order things happen."""
