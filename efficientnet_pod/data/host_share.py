"""One host's part of the global batches; importable without TensorFlow."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from efficientnet_pod.errors import UserError

_MOST_LANES = 256
_LEAST_RECORDS = 100  # of a lane: lengths differ by one record, so that images come equally often to 1 %


@dataclass(frozen=True)
class Lanes:
    """The lanes of record files that one host reads.

    Attributes:
      count: lanes of all hosts.
      numbers: numbers of the lanes that have images of this host, in order.
      width: images of a lane in one step.
      own: bool (lanes of this host · width,): which images of these lanes are this host's, of any step.
    """

    count: int
    numbers: tuple[int, ...]
    width: int
    own: np.ndarray


@dataclass(frozen=True)
class HostShare:
    """The images that the devices of one host take from every global batch, in the order of the mesh.

    Device number d of D takes the neighbouring images d·p to (d + 1)·p - 1 of a batch of D·p.

    Attributes:
      global_batch: images of all hosts together in one batch.
      first_image: place in the stream of all hosts' images at which the batches begin; of record files, one
        at which a step begins.
      devices: numbers of the host's devices in the mesh, ascending; they need not be neighbours.
      num_devices: devices of all hosts.
      micro_batches: batches of a step.
      num_replicas: replicas of the recipe, among which the records of a training step are shared out.
      first_batch: batches from ``first_image`` to the first one.
    """

    global_batch: int
    first_image: int = 0
    devices: tuple[int, ...] = (0,)
    num_devices: int = 1
    micro_batches: int = 1
    num_replicas: int = 1
    first_batch: int = 0

    def __post_init__(self) -> None:
        """Raises UserError unless all devices get equally many images."""
        assert list(self.devices) == sorted({*self.devices} & {*range(self.num_devices)}), self
        images, count = self.global_batch, self.num_devices
        if images < 1 or images % count:
            above = (max(images, 0) // count + 1) * count
            raise UserError(
                f"global batch is {images}; it must be a positive multiple of the {count} devices; "
                f"use {above}"
            )

    @property
    def host_batch(self) -> int:
        """Images of this host in one batch."""
        return self._device_batch * len(self.devices)

    @property
    def step_batch(self) -> int:
        """Images of all hosts in one step."""
        return self.global_batch * self.micro_batches

    @property
    def _device_batch(self) -> int:
        return self.global_batch // self.num_devices

    def later(self, batches: int) -> "HostShare":
        """Returns the share that begins so many batches later."""
        return replace(self, first_batch=self.first_batch + batches)

    def place(self, turn: Any, take: Callable[[np.ndarray, Any], Any] = np.take) -> Any:
        """Returns the place, in the stream of all hosts, of this host's image number ``turn``.

        Args:
          turn: an integer, an array or an int64 tensor; the place is of the same type.
          take: ``tf.gather`` for a tensor.
        """
        batch, row = turn // self.host_batch, turn % self.host_batch
        device = take(np.array(self.devices, np.int64), row // self._device_batch)
        place = device * self._device_batch + row % self._device_batch
        return self.first_image + (self.first_batch + batch) * self.global_batch + place

    def images_of_first(self, images: int) -> int:
        """Returns how many of the first ``images`` images of a batch are this host's."""
        size = self._device_batch
        return sum(min(max(images - device * size, 0), size) for device in self.devices)

    def lanes(self, records: int) -> Lanes:
        """Returns the lanes in which a split of so many record files' images is read for training.

        Lane number l of L serves the images l·B/L to (l + 1)·B/L - 1 of each step of B images. L is the
        greatest divisor of the number of replicas up to 256 that leaves each lane 100 records: a number of
        the recipe and the images, not of the machine. A lane that has images of several hosts is read by
        each of them.
        """
        most = max(1, min(_MOST_LANES, records // _LEAST_RECORDS))
        count = next(n for n in range(most, 0, -1) if self.num_replicas % n == 0)
        width = self.step_batch // count
        step = replace(self, first_image=0, first_batch=0)
        places = step.place(np.arange(self.host_batch * self.micro_batches))
        numbers, lane = np.unique(places // width, return_inverse=True)
        own = np.zeros(len(numbers) * width, bool)
        own[lane * width + places % width] = True
        return Lanes(count, tuple(numbers.tolist()), width, own)
