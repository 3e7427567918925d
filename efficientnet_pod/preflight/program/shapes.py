"""Shapes in HLO text: the arrays of a result and the bytes they take in memory, with padding."""

import re
from dataclasses import dataclass
from math import prod

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # the others have theirs in the name: f32, s4, f8e4m3fn
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,<=?]*)\](?:\{([^{}]*)\})?")
_TILE = re.compile(r"\(([0-9,*]+)\)")


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a result: its type and its layout in memory.

    Attributes:
      dtype: HLO's name: ``f32``, ``bf16``, ``pred``.
      dims: sizes in logical order; for a bounded dimension the bound.
      minor_to_major: order of the dimensions in memory, the fastest first; empty where the text gives none.
      tiles: sizes of each level of tiling, outermost first; 0 for a dimension merged with the next.
      memory_space: 0 is the device's main memory; on a TPU 1 is VMEM, 2 flags, 6 SMEM.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    memory_space: int = 0

    @property
    def bits(self) -> int:
        """Bits of an element; booleans take a byte."""
        if self.dtype in _BITS:
            return _BITS[self.dtype]
        bits = re.match(r"[a-z]+(\d+)", self.dtype)
        return int(bits[1]) if bits else 0

    @property
    def bytes(self) -> int:
        """Bytes of the elements, without padding."""
        return -(-prod(self.dims) * self.bits // 8)

    @property
    def padded_bytes(self) -> int:
        """Bytes in memory: each level of tiles rounds the fastest dimensions up.

        Source: openxla.org/xla/tiled_layout. ``f32[3,5]{1,0:T(2,2)}`` takes 2·3 tiles of 4 elements.
        """
        order = self.minor_to_major if len(self.minor_to_major) == len(self.dims) else ()
        sizes = [self.dims[i] for i in reversed(order)] if order else list(self.dims)
        for tile in self.tiles:
            sizes = _tiled(sizes, tile)
        return -(-prod(sizes) * self.bits // 8)


def _tiled(sizes: list[int], tile: tuple[int, ...]) -> list[int]:
    """Returns the sizes with the last ones, as many as the tile has, split into tiles and their contents."""
    sizes = [1] * (len(tile) - len(sizes)) + sizes
    kept, last = sizes[: len(sizes) - len(tile)], sizes[len(sizes) - len(tile) :]
    merged, carried = [], 1
    for size, side in zip(last, tile, strict=True):
        if side == 0:
            carried *= size
        else:
            merged.append((size * carried, side))
            carried = 1
    return [*kept, *(-(-size // side) for size, side in merged), *(side for _, side in merged)]


def arrays(text: str) -> tuple[Array, ...]:
    """Returns the arrays of a shape's text in order, nested tuples flattened."""
    return tuple(_array(*groups) for groups in _ARRAY.findall(text))


def elements(text: str) -> tuple[str, ...]:
    """Returns the texts of a tuple shape's elements, or the text of an array's shape alone."""
    if not text.startswith("("):
        return (text,)
    parts, depth, start = [], 0, 1
    for i, character in enumerate(text):
        depth += (character in "({[") - (character in ")}]")
        if (character == "," and depth == 1) or (depth == 0 and i > start):
            parts.append(text[start:i].strip())
            start = i + 1
    return tuple(parts)


def _array(dtype: str, dims: str, layout: str) -> Array:
    order, _, rest = layout.partition(":")
    tiled = re.search(r"T((?:\([0-9,*]+\))+)", rest)
    space = re.search(r"S\((\d+)\)", rest)
    return Array(
        dtype,
        tuple(int(d.lstrip("<=?") or 0) for d in dims.split(",") if d),
        tuple(int(i) for i in order.split(",") if i),
        tuple(
            tuple(0 if side == "*" else int(side) for side in tile.split(","))
            for tile in (_TILE.findall(tiled.group(1)) if tiled else ())
        ),
        int(space.group(1)) if space else 0,
    )
