"""The identity of a run: fingerprint of its images, and every value that all hosts must agree on."""

import hashlib
import json
from typing import Any

from efficientnet_pod.pod import runtime as pod_runtime
from efficientnet_pod.run.run import Run


def data_of(run: Run) -> dict[str, Any]:
    """Returns name, numbers, classes and fingerprint of a run's images: the contents of ``data.json``."""
    source = run.images
    names = ("name", "num_train", "num_eval", "class_names", "fingerprint")
    return {name: getattr(source, name) for name in names}


# Another version may crop, draw or compute differently.
_VERSIONS = ("efficientnet_pod", "git_commit", "jax", "jaxlib", "flax", "optax", "tensorflow")


def identity_of(run: Run) -> dict[str, Any]:
    """Returns the values that all hosts of a run must agree on, as a flat table of short values for JSON.

    They cover recipe, devices, versions and images. The folder of a host's own copy of a data set may differ.
    """
    source, plan, runtime = run.images, run.plan, run.runtime
    recipe = plan.as_dict()["recipe"]
    fields = {name: value for name, value in _flat(recipe, "config") if name != "config.data.data_dir"}
    versions = pod_runtime.versions()
    devices = {
        "platform": runtime.platform,
        "device_kind": runtime.device_kind,
        "replicas": plan.num_replicas,
        "devices": plan.num_devices,
        "devices_of_a_host": sum(d.process_index == runtime.place for d in runtime.devices),
        "mesh": _digest([d.id for d in run.mesh.devices.flat]),
    }
    images = {
        **{name: getattr(plan, name) for name in ("num_train", "num_eval", "num_classes")},
        "classes": _digest(source.class_names),
        "files": source.fingerprint[:16],
        "training_images": type(source.train).__name__,
        "eval_shapes": _digest(plan.eval_shapes),
        "eval_order": None if run.eval_order is None else _digest(run.eval_order.tolist()),
    }
    return fields | devices | {name: versions[name] for name in _VERSIONS} | images


def _flat(value: Any, name: str) -> list[tuple[str, Any]]:
    """Returns the leaves of nested tables and lists under their dotted names."""
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in _flat(part, f"{name}.{key}")]
    if isinstance(value, (list, tuple)):
        return [leaf for i, part in enumerate(value) for leaf in _flat(part, f"{name}.{i}")]
    return [(name, value)]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
