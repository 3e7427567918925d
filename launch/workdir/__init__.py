"""The launcher's view of a run's workdir, local or in a bucket."""
