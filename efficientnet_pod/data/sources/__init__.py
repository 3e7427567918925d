"""Where images come from: folders, TFDS, TFRecord and ArrayRecord files."""
