"""Our own paths: for networks that no other library has."""

from efficientnet_pod.weights.layouts.layout import Layout

OWN = Layout(
    "efficientnet-pod",
    names=lambda paths: {path: path for path in paths},
    to_ours=lambda path, array: array,
    from_ours=lambda path, array: array,
    is_beside=lambda name: False,
)
