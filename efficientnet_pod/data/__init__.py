"""Images from disk to host batches, in tf.data: the only package that imports TensorFlow.

TensorFlow works on the CPU here and must leave the accelerators to JAX, so every GPU is hidden from it before
its runtime starts.
"""

import os

# Read once, when TensorFlow is loaded. oneDNN offers these small image operations nothing, and announces
# itself on the terminal at every start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf  # noqa: E402

tf.get_logger().setLevel("ERROR")  # deprecations inside tensorflow_datasets, which no user can mend
tf.config.set_visible_devices([], "GPU")
