"""A trained network as a program: StableHLO by ``jax.export``, weights and normalisation inside."""

from pathlib import Path
from typing import Any

from efficientnet_pod.weights.trained import Trained

PLATFORMS = ("cpu", "tpu", "cuda")
_LOCATIONS = "jax_traceback_in_locations_limit"


def exported(trained: Trained) -> Any:
    """Returns the ``jax.export.Exported`` of levels 0..255 → logits.

    It takes uint8 (batch, image_size, image_size, 3), of any batch, and returns float32 (batch, classes); the
    same program runs on a CPU, a TPU and a CUDA GPU.
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    shape = (batch, trained.image_size, trained.image_size, 3)
    levels = jax.ShapeDtypeStruct(shape, jnp.uint8)
    # Else the paths of this machine's modules are in a file that is passed on, and lines that change.
    kept = getattr(jax.config, _LOCATIONS)
    jax.config.update(_LOCATIONS, 0)
    try:
        return export.export(jax.jit(trained.logits), platforms=PLATFORMS)(levels)
    finally:
        jax.config.update(_LOCATIONS, kept)


def write_stablehlo(trained: Trained, path: Path) -> None:
    """Writes what ``jax.export.deserialize`` reads."""
    path.write_bytes(exported(trained).serialize())
