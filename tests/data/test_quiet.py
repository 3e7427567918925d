"""TensorFlow as this package loads it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("before", ["", "import keras; "])
def test_keras_stays_out_until_it_is_asked_for(before):
    code = (
        f"import sys; {before}from efficientnet_pod.data.quiet import tf; tf.constant(1); "
        "print('keras' in sys.modules, 'sklearn' in sys.modules); "
        "from tensorflow.keras import layers; import keras; "
        "print(tf.keras.optimizers.SGD is keras.optimizers.SGD, layers.Dense is keras.layers.Dense)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = str(bool(before))
    assert ended.stdout.split() == [loaded, loaded, "True", "True"]
