"""Random weights for keras.applications' EfficientNets, V2 too, and the same weights as our variables."""

import numpy as np

# Ours -> Keras; a block's layers carry the block's name in front.
BLOCK_LAYERS = {
    "expand_conv": "expand_conv",
    "expand_bn": "expand_bn",
    "depthwise_conv": "dwconv",
    "depthwise_bn": "bn",
    "se_reduce": "se_reduce",
    "se_expand": "se_expand",
    "project_conv": "project_conv",
    "project_bn": "project_bn",
}
DEPTHWISE_OF_V2 = "dwconv2"
OUTER_LAYERS = {"head_conv": "top_conv", "head_bn": "top_bn", "classifier": "predictions"}
BN_LEAVES = {"scale": 0, "bias": 1, "mean": 2, "var": 3}


def randomise(model, images: np.ndarray, seed: int) -> None:
    """Gives every weight of a Keras model a random value, and batch norm the statistics of the images.

    With any other statistics nothing of an image reaches the logits, and all networks agree on them.
    """
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        shapes = [w.shape for w in layer.weights]
        if layer.name.endswith("bn"):
            gamma, beta = rng.uniform(0.5, 1.5, shapes[0]), rng.normal(0, 0.1, shapes[0])
            layer.set_weights([gamma, beta, *layer.get_weights()[2:]])
            layer.momentum = 0.0  # the next training pass stores its own statistics
        elif shapes and not layer.name.startswith("normalization"):  # _1 of a second network
            fan_in = np.prod(shapes[0][:-1]) if "dwconv" not in layer.name else np.prod(shapes[0][:2])
            values = [rng.normal(0, fan_in**-0.5, shapes[0])]
            layer.set_weights(values + [rng.normal(0, 0.1, s) for s in shapes[1:]])
    model(images, training=True)


def convert(model, variables) -> dict:
    """Returns the Keras model's weights in the shape of ``variables`` (a tree of arrays or shapes)."""
    layers = {layer.name: layer.get_weights() for layer in model.layers}

    def leaf(path, old):
        names = [key.key for key in path][1:]  # without the collection
        *outer, module, name = names
        if outer:
            layer = f"{outer[0]}_{BLOCK_LAYERS[module]}"
            if module == "depthwise_conv" and layer not in layers:
                layer = f"{outer[0]}_{DEPTHWISE_OF_V2}"
        else:
            layer = OUTER_LAYERS.get(module, module)
        weights = layers[layer]
        if module.endswith("bn"):
            value = weights[BN_LEAVES[name]]
        elif module == "depthwise_conv":
            value = weights[0].transpose(0, 1, 3, 2)  # (k, k, channels, 1) -> (k, k, 1, channels)
        else:
            value = weights[0 if name == "kernel" else 1]
        if module.startswith("se_") and name == "kernel":
            value = value[0, 0]
        assert value.shape == old.shape, (names, value.shape, old.shape)
        return value.astype(np.float32)

    import jax

    return jax.tree_util.tree_map_with_path(leaf, variables)
