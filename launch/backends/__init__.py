"""One backend a file: Cloud TPU queued resources, instance groups, GKE, SkyPilot, SLURM, local processes."""
