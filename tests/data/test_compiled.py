"""Compiled TensorFlow functions in a process whose XLA_FLAGS are meant for JAX."""

import os
import subprocess
import sys

PROGRAM = """
import os
import tensorflow as tf
from efficientnet_pod.data.transforms.xla import compiled

double = compiled(lambda x: 2 * x)
print(list(tf.data.Dataset.range(3).map(double).as_numpy_iterator()) == [0, 2, 4], os.environ["XLA_FLAGS"])
"""


def test_flags_that_only_jax_knows_do_not_end_the_process_and_stay_set():
    environment = os.environ | {"XLA_FLAGS": "--xla_flag_of_another_age=1"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout.split() == ["True", "--xla_flag_of_another_age=1"], run.stderr
