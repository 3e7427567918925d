"""Images from disk to host batches, in tf.data: the only room that imports TensorFlow."""

import os

# Read when TensorFlow is loaded. oneDNN does not speed up these small operations, and prints at every start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
