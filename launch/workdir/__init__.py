"""Files of the launcher and records of the run in a workdir, local or in a bucket."""
