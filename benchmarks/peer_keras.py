"""Owns the Keras side of the CPU comparison: `keras.applications.EfficientNetB0`, one SGD step."""

import os
from collections.abc import Callable

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402


def prepare(
    batch: int, image_size: int, threads: int, *, jit_compile: bool
) -> tuple[Callable[[], None], str]:
    """Returns a function that runs one training step to its end, and a description of it."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    keras.utils.set_random_seed(0)
    model = keras.applications.EfficientNetB0(
        weights=None, input_shape=(image_size, image_size, 3), classifier_activation=None
    )
    parameters = sum(int(tf.size(variable)) for variable in model.trainable_variables)
    if parameters != 5_288_548:
        raise AssertionError(f"EfficientNet-B0 has 5,288,548 parameters; this peer has {parameters:,}")
    optimizer = keras.optimizers.SGD(learning_rate=0.01, momentum=0.9)
    optimizer.build(model.trainable_variables)
    images = tf.random.normal((batch, image_size, image_size, 3))
    labels = tf.range(batch) % 1000

    @tf.function(jit_compile=jit_compile)
    def train_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    def step() -> None:
        train_step(images, labels).numpy()

    compiler = "jit_compile=True" if jit_compile else "jit_compile=False"
    return step, f"keras {keras.__version__} on tensorflow {tf.__version__}, {compiler}, {threads} threads"
