"""Rectangular evaluation: shapes by the mean aspect ratio, no distortion, each image counted once."""

import dataclasses
import io

import jax
import numpy as np
import pytest
import tensorflow as tf
from photos import encoded, photo
from PIL import Image
from recipes import load
from tiny import build_tiny_networks
from whole_runs import compiled_eval_step as compiled

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import aspect_ratios, eval_batches
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.types import Records
from efficientnet_pod.data.transforms.preprocess import eval_image
from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate.evaluate import evaluate
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.recipe.rectangles import eval_batch_of, order_of, shapes_of
from efficientnet_pod.run.run import open_run


def test_shapes_follow_the_mean_ratio_of_each_batch():
    # Means 0.7, 1.0, 1.35, 3.5 of width to height: 224 / 0.7 = 320, 224 * 1.35 = 302, at most twice as long.
    ratios = np.array([1.5, 0.6, 0.8, 1.0, 1.0, 1.2, 4.0, 3.0])
    shapes = shapes_of(ratios, image_size=224, eval_batch=2)
    assert shapes == ((320, 224, 1), (224, 224, 1), (224, 288, 1), (224, 448, 1))
    assert shapes_of(np.ones(7), image_size=224, eval_batch=2) == ((224, 224, 4),)
    assert ratios[order_of(ratios)].tolist() == sorted(ratios)


def test_there_are_sixteen_batches_or_more_where_there_are_images_for_them():
    assert eval_batch_of(50_176, num_eval=50_000, num_replicas=1024) == 3072  # 17 batches; 4,096 are 13
    assert eval_batch_of(360, num_eval=360, num_replicas=8) == 16  # 23 batches; 24 images are 15
    assert eval_batch_of(256, num_eval=50_000, num_replicas=8) == 256
    assert eval_batch_of(16, num_eval=45, num_replicas=8) == 8


@pytest.mark.parametrize(
    ("stored", "shape", "box"),
    [
        # The largest box of the proportions of the shape, times 64 / (64 + 9), its middle in the middle.
        ((120, 160), (64, 96), (93, 140)),  # limited by the width: 160 / 96 a pixel
        ((120, 200), (64, 96), (105, 157)),  # by the height: 120 / 64
        ((160, 120), (96, 64), (140, 93)),
    ],
)
def test_the_box_has_the_proportions_of_the_shape(stored, shape, box):
    jpeg = encoded(photo(1, *stored), "JPEG")
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
    top, left = ((extent - side + 1) // 2 for extent, side in zip(stored, box, strict=True))
    crop = pixels[top : top + box[0], left : left + box[1]]
    how = Preprocessing(64)
    whole = Preprocessing(64, augment="shift")
    expected = eval_image(tf.constant(crop), whole, shape)  # resized only
    np.testing.assert_allclose(eval_image(tf.constant(jpeg), how, shape), expected, atol=1e-3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of 45 evaluation images of all proportions, whose red tells their number."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 45)):
        for i in range(count):
            height, width = (int(side) for side in rng.integers(40, 120, 2))
            pixels = np.full((height, width, 3), (5 * i, 0, 0), np.uint8)
            folder = root / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:02}.png").write_bytes(encoded(pixels, "PNG"))
    return open_source(f"folder:{root}")


@pytest.mark.parametrize("host_count", [1, 2])
def test_each_image_is_in_one_batch_of_its_shape(source, host_count):
    ratios = aspect_ratios(source, exif="ignored")
    sizes = [
        tf.image.decode_png(source.eval.fetch(tf.constant(i, tf.int64))["image"]).shape for i in range(45)
    ]
    np.testing.assert_allclose(ratios, [width / height for height, width, _ in sizes])
    shapes = shapes_of(ratios, image_size=32, eval_batch=4)
    assert len(shapes) > 2
    seen = []
    for host in range(host_count):
        batches = eval_batches(
            source,
            Preprocessing(32),
            HostShare(4, 0, (host,), host_count),
            shapes=shapes,
            order=order_of(ratios),
        )
        expected = [(h, w) for h, w, steps in shapes for _ in range(steps)]
        for batch, shape in zip(batches.as_numpy_iterator(), expected, strict=True):
            assert batch["image"].shape == (4 // host_count, *shape, 3)
            seen += [round(float(image[0, 0, 0]) / 5) for image in batch["image"][batch["mask"] > 0]]
    assert sorted(seen) == list(range(45))


def test_evaluation_counts_rectangles_as_a_loop_over_the_images_does(source, monkeypatch):
    build_tiny_networks(monkeypatch)
    config = load("digits.py")
    config["data"] |= {"augment": "inception_crop", "eval_crop": "rectangular"}
    config |= {"global_batch": 16, "bn_group_size": 8}
    run = open_run(read_recipe(config), source)
    assert len(run.plan.eval_shapes) > 1 and run.plan.eval_batch == 8
    variables = run.initial_variables()
    rng = np.random.default_rng(1)
    variables["params"]["classifier"] = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variables["params"]["classifier"]
    )
    hits = []
    apply = jax.jit(lambda image: run.model.apply(variables, normalise(image), train=False))
    shapes = [(h, w) for h, w, steps in run.plan.eval_shapes for _ in range(8 * steps)]
    assert run.eval_order is not None
    for place, index in enumerate(run.eval_order):
        example = source.eval.fetch(tf.constant(index, tf.int64))
        image = eval_image(example["image"], run.preprocessing(), shapes[place])
        hits.append(int(np.argmax(apply(image.numpy()[None]))) == int(example["label"]))
    result = evaluate(run, compiled(run), variables)
    assert result.images == 45
    assert result.top1 == pytest.approx(np.mean(hits), abs=1e-12)


def test_streams_and_whole_images_are_refused(source):
    digits = load("digits.py")
    digits["data"]["eval_crop"] = "rectangular"
    with pytest.raises(UserError, match="config.data.augment=shift evaluates whole images; use square"):
        open_run(read_recipe(digits))
    streamed = dataclasses.replace(source, eval=Records((), lambda record, place: {}))
    with pytest.raises(UserError, match="which 'folder:.*' does not allow, read from the front"):
        aspect_ratios(streamed, exif="ignored")
