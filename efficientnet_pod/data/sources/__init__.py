"""Data sets opened by name: folders, TFDS, TFRecord and ArrayRecord files, the digits of scikit-learn."""
