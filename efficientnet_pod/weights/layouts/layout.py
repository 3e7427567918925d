"""What a layout is."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and axes that one framework gives to the tensors of our networks.

    Attributes:
      title: of the framework, in messages.
      names: of the tensors, by our paths; those of other networks than it knows are left out.
      to_ours: an array by its path in our axes: height, width, inputs, outputs.
      from_ours: the way back, exact.
      is_beside: whether a name is of something that files hold and no network computes with: counters,
        slots of optimizers.
    """

    title: str
    names: Callable[[Iterable[str]], dict[str, str]]
    to_ours: Callable[[str, np.ndarray], np.ndarray]
    from_ours: Callable[[str, np.ndarray], np.ndarray]
    is_beside: Callable[[str], bool]
