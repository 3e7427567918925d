"""A trained network as a program: StableHLO by ``jax.export``, weights and normalisation inside."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from efficientnet_pod.weights.trained import Trained

PLATFORMS = ("cpu", "tpu", "cuda")
_LOCATIONS = "jax_traceback_in_locations_limit"


def exported(trained: Trained) -> export.Exported:
    """Returns the program of levels 0..255 → logits, for a CPU, a TPU and a CUDA GPU.

    It takes uint8 (batch, image_size, image_size, 3), of any batch, and returns float32 (batch, classes).
    """
    (batch,) = export.symbolic_shape("batch")
    levels = jax.ShapeDtypeStruct((batch, trained.image_size, trained.image_size, 3), jnp.uint8)
    # Without locations: the paths of this machine's modules do not belong into a file that is passed on.
    limit = getattr(jax.config, _LOCATIONS)
    jax.config.update(_LOCATIONS, 0)
    try:
        return export.export(jax.jit(trained.program()), platforms=PLATFORMS)(levels)
    finally:
        jax.config.update(_LOCATIONS, limit)


def write_stablehlo(trained: Trained, path: Path) -> None:
    """Writes the program for ``jax.export.deserialize``."""
    path.write_bytes(exported(trained).serialize())
