"""Trained weights as files: read from other frameworks, kept in one folder of a common format, written."""
