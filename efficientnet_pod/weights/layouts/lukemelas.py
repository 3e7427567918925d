"""The names of EfficientNet-PyTorch (lukemelas) and of its fork with the lite networks."""

from efficientnet_pod.models.efficientnet import VARIANTS, block_specs

# Ours -> theirs, of what a block has; stage by stage, they number batch norm from the expansion's, 0.
_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "se_reduce": "_se_reduce",
    "se_expand": "_se_expand",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}
_ENDS = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "head_conv": "_conv_head",
    "head_bn": "_bn1",
    "classifier": "_fc",
}
_KERNEL = {"params/{}/kernel": "weight"}
_KERNEL_AND_BIAS = _KERNEL | {"params/{}/bias": "bias"}
_BATCH_NORM = {
    "params/{}/scale": "weight",
    "params/{}/bias": "bias",
    "batch_stats/{}/mean": "running_mean",
    "batch_stats/{}/var": "running_var",
}


def names(model_name: str) -> dict[str, str]:
    """Returns their names of all variables of ``"b0"`` … ``"b7"`` or ``"lite0"`` … ``"lite4"``, by ours.

    Ours is the path from the collection on: ``"params/block1a/depthwise_conv/kernel"`` is
    ``"_blocks.0._depthwise_conv.weight"``. Their files also have a ``num_batches_tracked`` for every batch
    norm, which is nothing here. Layouts are PyTorch's: kernels (outputs, inputs, height, width), depthwise
    ones (channels, 1, height, width), squeeze-excite's too, as 1×1 convolutions; the classifier's
    (outputs, inputs).

    Raises KeyError where there is no such network.

    Source: efficientnet_pytorch 0.7.1 and efficientnet_lite_pytorch 0.1.0, model.py.
    """
    variant = VARIANTS[model_name]
    modules = dict(_ENDS)
    for i, spec in enumerate(block_specs(variant, survival_probability=1.0)):
        for ours, theirs in _BLOCK.items():
            is_there = not (ours.startswith("expand") and spec.expansion == 1)
            if is_there and not (ours.startswith("se_") and variant.lite):
                modules[f"{spec.name}/{ours}"] = f"_blocks.{i}.{theirs}"
    return {
        path.format(ours): f"{theirs}.{leaf}"
        for ours, theirs in modules.items()
        for path, leaf in _leaves(ours).items()
    }


def _leaves(module: str) -> dict[str, str]:
    """Returns the foreign names of a module's variables by our paths, with a gap for the module's."""
    kind = module.rpartition("/")[-1]
    if kind.endswith("_bn"):
        return _BATCH_NORM
    return _KERNEL_AND_BIAS if kind.startswith("se_") or kind == "classifier" else _KERNEL
