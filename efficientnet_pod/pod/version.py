"""The version of this package, for the records of a run."""

VERSION = "0.1.0"
