"""The count of images that a host may skip; importable without TensorFlow."""

from collections.abc import Callable
from dataclasses import dataclass, field

from efficientnet_pod.errors import UserError

SKIP_FLAG = "--config.data.skip_corrupt"


@dataclass
class Skips:
    """The images that one process has skipped since it started, over all epochs, each counted once.

    Attributes:
      allowed: number of images that may be skipped; 0 for none.
      warn: function that takes one line about each image when it is first met.
      names: names of the images skipped.
    """

    allowed: int
    warn: Callable[[str], None] = print
    names: set[str] = field(default_factory=set)

    def add(self, name: str, image: str, reason: str) -> None:
        """Counts one image, which the words ``image`` describe; raises UserError if it is one too many."""
        if name in self.names:
            return
        self.names.add(name)
        if len(self.names) > self.allowed:
            raise UserError(
                f"{image} cannot be used: {reason}; it is number {len(self.names)} of the images that this "
                f"host cannot use, and {SKIP_FLAG}={self.allowed}; replace or remove them, or let more be "
                "skipped"
            )
        self.warn(f"skipped {image}: {reason} ({len(self.names)} of {self.allowed} that may be skipped)")
