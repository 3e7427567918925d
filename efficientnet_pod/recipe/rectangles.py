"""Rectangular evaluation: the shape of each evaluation image, by its aspect ratio."""

import itertools
from collections.abc import Sequence

import numpy as np

Shapes = tuple[tuple[int, int, int], ...]  # (height, width, evaluation steps), in the order they are run

CHUNKS = 16  # at least: were all images one chunk, all would be cropped alike
MULTIPLE = 32  # of the longer side: the network halves it five times, and fewer shapes compile sooner


def order_of(ratios: np.ndarray) -> np.ndarray:
    """Returns the places of the images in the order they are evaluated, narrowest first, int64 (images,).

    ``ratios`` are width / height of each image.
    """
    return np.argsort(ratios, kind="stable")


def shapes_of(ratios: np.ndarray, *, image_size: int, eval_batch: int) -> Shapes:
    """Returns the shapes of batches of ``eval_batch`` images, consecutive in order of their aspect ratio.

    The shorter side is ``image_size`` pixels, that of the square this replaces. The longer one follows the
    mean of a batch's ``ratios``, width / height. Batches of one shape are neighbours, so there are as many
    programs as there are shapes.

    Source: the evaluation of imagenet18 (fast.ai, DAWNBench 2018): sorted, chunked, cropped to the mean.
    """
    ordered = np.sort(ratios)
    means = [ordered[i : i + eval_batch].mean() for i in range(0, len(ordered), eval_batch)]
    shapes = itertools.groupby(_shape(mean, image_size) for mean in means)
    return tuple((*shape, len(list(steps))) for shape, steps in shapes)


def eval_batch_of(largest: int, *, num_eval: int, num_replicas: int) -> int:
    """Returns the images a step, at most ``largest``, that make :data:`CHUNKS` batches or more.

    One image a replica is the least; of fewer than 16 images for each replica there are fewer batches.
    """
    return min(largest, num_replicas * max(1, num_eval // (CHUNKS * num_replicas)))


def describe_shapes(shapes: Sequence[tuple[int, int, int]]) -> str:
    """Returns e.g. ``"7 shapes from 352 × 224 to 224 × 352 px"``, height by width; for () that they vary."""
    if not shapes:
        return "shapes by the aspect ratios of the images"
    (h0, w0, _), (h1, w1, _) = shapes[0], shapes[-1]
    if len(shapes) == 1:
        return f"{h0} × {w0} px"
    return f"{len(shapes)} shapes from {h0} × {w0} to {h1} × {w1} px"


def _shape(ratio: float, image_size: int) -> tuple[int, int]:
    """Returns (height, width), never more than twice as long as wide."""
    longer = image_size * min(max(ratio, 1 / ratio), 2.0)
    longer = max(image_size, round(longer / MULTIPLE) * MULTIPLE)
    return (longer, image_size) if ratio < 1 else (image_size, longer)
