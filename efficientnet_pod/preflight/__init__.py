"""What a recipe would need of a pod and what it would cost, from its compiled program; nothing is run."""
