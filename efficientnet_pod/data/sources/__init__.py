"""Data sets opened by name: folders, TFDS, record files, Parquet, tar files, the hub, ImageNet downloaded."""
