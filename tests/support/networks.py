"""Networks beside their twins in Keras: images, and weights carried over."""

from functools import partial

import jax
import numpy as np
from keras_reference import BN_LEAVES

quickly = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images(number=4, size=32, seed=0):
    return np.random.default_rng(seed).normal(size=(number, size, size, 3)).astype(np.float32)


def weights_of(twin, variables):
    """Returns the weights of a Keras model whose layers have our names, in the shape of ``variables``."""

    def leaf(path, old):
        *modules, name = [key.key for key in path][1:]
        weights = twin.get_layer("_".join(modules)).get_weights()
        places = BN_LEAVES if modules[-1].endswith("bn") else {"kernel": 0, "bias": 1}
        assert weights[places[name]].shape == old.shape
        return weights[places[name]]

    return jax.tree_util.tree_map_with_path(leaf, variables)
