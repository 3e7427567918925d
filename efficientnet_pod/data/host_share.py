"""One host's part of the global batches; importable without TensorFlow."""

from dataclasses import dataclass, replace
from typing import Any

from efficientnet_pod.errors import UserError


@dataclass(frozen=True)
class HostShare:
    """The neighbouring images that one host takes from every global batch.

    Attributes:
      global_batch: images of all hosts together in one batch.
      first_image: place in the stream of all hosts' images at which the batches begin.
      host_index: number of the host, from 0.
      host_count: number of hosts.
    """

    global_batch: int
    first_image: int = 0
    host_index: int = 0
    host_count: int = 1

    def __post_init__(self) -> None:
        """Raises UserError unless the host exists and all hosts get equally many images."""
        index, count, images = self.host_index, self.host_count, self.global_batch
        if not 0 <= index < count:
            raise UserError(f"host index is {index}; it must be 0..{count - 1}; set it for each host")
        if images < 1 or images % count:
            above = (max(images, 0) // count + 1) * count
            raise UserError(
                f"global batch is {images}; it must be a positive multiple of the {count} hosts; use {above}"
            )

    @property
    def host_batch(self) -> int:
        """Images of this host in one batch."""
        return self.global_batch // self.host_count

    def later(self, batches: int) -> "HostShare":
        """Returns the share that begins so many batches later."""
        return replace(self, first_image=self.first_image + batches * self.global_batch)

    def place(self, turn: Any) -> Any:
        """Returns the place, in the stream of all hosts, of this host's image number ``turn``.

        ``turn`` is an integer, an array or a tensor of integers; the place is of the same type.
        """
        batch, place = turn // self.host_batch, turn % self.host_batch
        return self.first_image + batch * self.global_batch + self.host_index * self.host_batch + place
