"""One file format of weights or programs a file."""
