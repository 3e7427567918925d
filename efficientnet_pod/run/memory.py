"""The memory that a compiled step takes, beside what the devices and this host have."""

import dataclasses
from typing import Any

import jax

from efficientnet_pod.errors import UserError, refused_bytes
from efficientnet_pod.pod import memory
from efficientnet_pod.pod.terminal import byte_size
from efficientnet_pod.recipe.rules import recomputing
from efficientnet_pod.run.feed import BATCHES_AHEAD, share_bytes
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.train_step import abstract_sums
from efficientnet_pod.workdir.checkpoints.commit import bytes_of


@dataclasses.dataclass(frozen=True)
class Need:
    """The memory of a program, in bytes: on a CPU all that this process takes, else what one device takes.

    Attributes:
      fixed: what is there with any batch: the process, the train state.
      by_batch: what grows with the batch: activations, images.
      limit: what there is; None where nobody says.
    """

    fixed: int
    by_batch: int
    limit: int | None

    @property
    def total(self) -> int:
        """All of it."""
        return self.fixed + self.by_batch

    def fits(self, room: float = 1.0) -> bool:
        """Returns whether it is at most this share of what there is."""
        return self.limit is None or self.total <= room * self.limit

    def __str__(self) -> str:
        of = f" of {byte_size(self.limit)}" if self.limit else ""
        return byte_size(self.total) + of


def need_of_refused(run: Run, message: str) -> Need | None:
    """Returns what a program takes that the compiler has refused; None if its message has no number."""
    sizes, state = refused_bytes(message), bytes_of(run.abstract_state())
    return Need(state, sizes[0] - state, sizes[1]) if sizes else None


def need_of(run: Run, program: jax.stages.Compiled, *, images: int, image_size: int) -> Need:
    """Returns what a compiled step takes; call it before the state is placed on the devices.

    Args:
      run: whose step it is.
      program: the step.
      images: images of all devices in a call of the program.
      image_size: pixels of their sides.
    """
    stats: Any = program.memory_analysis()
    state = bytes_of(run.abstract_state())
    if run.plan.is_accumulated:  # and the sums of the micro-batches
        state += bytes_of(abstract_sums(run.abstract_state(), run.mesh)) // run.mesh.size
    beyond = max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)
    batches = (1 + BATCHES_AHEAD) * share_bytes(run.plan, images, image_size)
    if run.runtime.platform != "cpu":
        limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
        limit = min((limit for limit in limits if limit), default=None)
        fixed = state + stats.generated_code_size_in_bytes
        return Need(fixed, stats.temp_size_in_bytes + beyond + batches, limit)
    taken, free = memory.resident_bytes() or 0, memory.available_bytes()
    replicas = jax.local_device_count()
    limit = None if free is None else taken + free
    return Need(taken + replicas * state, replicas * (stats.temp_size_in_bytes + beyond + batches), limit)


def require_memory(
    run: Run,
    program: jax.stages.Compiled,
    name: str,
    *,
    images: int,
    image_size: int,
    batch_field: str = "global_batch",
    micro_batches: int = 0,
) -> Need:
    """Returns what a compiled step takes, where there is as much.

    ``batch_field`` sets the batch, and of a training step there are so many ``micro_batches``.

    Raises:
      UserError: there is not enough; the message has the largest batch that fits.
    """
    need = need_of(run, program, images=images, image_size=image_size)
    if need.limit is None or need.fits():
        return need
    remedy = _remedy(need, images, run, batch_field, micro_batches)
    remedy += recomputing(run.plan.recipe) if micro_batches else ""
    who = "this machine" if run.runtime.platform == "cpu" else "a device"
    raise UserError(
        f"{name} of {images:,} images takes {byte_size(need.total)} of memory and {who} has "
        f"{byte_size(need.limit)} for it; {remedy}"
    )


def _remedy(need: Need, images: int, run: Run, batch_field: str, micro_batches: int) -> str:
    """Returns what to change; batches are halved, since what divided the batch then divides its parts."""
    assert need.limit is not None
    factor = 1
    while images % (2 * factor * run.plan.num_devices) == 0:
        factor *= 2
        if need.fixed + need.by_batch / factor <= need.limit:
            batch = max(1, micro_batches) * images // factor
            replicas, parts = factor * run.plan.num_replicas, factor * micro_batches
            in_parts = f"; --config.replicas={replicas} too: the same batch in {parts} parts, each with its "
            in_parts += "own batch norm"
            return f"--config.{batch_field}={batch} fits" + (in_parts if micro_batches else "")
    return "lower config.data.image_size, or take more devices"
