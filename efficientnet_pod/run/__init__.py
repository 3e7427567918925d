"""A recipe on devices: train state, the step seen by one replica, compiled programs, batches on their way."""
