"""Images from disk to host batches, in tf.data: the only room that imports TensorFlow."""
