"""One engine a file: Cloud TPU queued resources, GKE, SkyPilot, SLURM, local processes."""
