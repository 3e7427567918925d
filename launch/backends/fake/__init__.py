"""A Cloud TPU service on this machine: Google's client talks to it, its workers are processes here."""
