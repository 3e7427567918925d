"""Titles of the networks: the words that plans, evaluations and reports have for them. Imports nothing."""

TITLES = {
    **{f"b{size}": f"EfficientNet-B{size}" for size in range(8)},
    **{f"lite{size}": f"EfficientNet-Lite{size}" for size in range(5)},
    **{f"v2_{size}": f"EfficientNetV2-{size.upper()}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l")},
    "resnet50": "ResNet-50",
    "amoebanet_d": "AmoebaNet-D (6, 256)",
    "resnet18_cifar": "ResNet-18 for CIFAR",
    "resnet9": "ResNet-9",
    "resnet9_whitened": "ResNet-9, whitened",
}
