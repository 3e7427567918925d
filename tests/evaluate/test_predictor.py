"""A predictor of files, PIL images and arrays: the same pixels for each, names, features, one-line errors."""

import io

import jax
import numpy as np
import pytest
from given_weights import random_resnet9
from photos import encoded, noted, photo
from PIL import Image
from tiny import KINDS, tiny_form

import efficientnet_pod as ep
from efficientnet_pod.data.image_files import decode_images
from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate.predictor import Predictor
from efficientnet_pod.models.features import features_of
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.registry import NETWORKS
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.weights.trained import CENTRE, untrained


@pytest.fixture(scope="module")
def predictor():
    return Predictor(random_resnet9(view=CENTRE), batch=4)


def subsampled(pixels):
    """A JPEG as cameras write it, whose colours have half of the resolution."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85, subsampling=2)
    return buffer.getvalue()


def by_mode(mode):
    """A PNG of this mode of Pillow's, with noise and, where it can be, with transparency."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 4), np.uint8), "RGBA")
    if mode == "I;16":
        levels = np.random.default_rng(0).integers(0, 1 << 16, (60, 90)).astype(np.uint16)
        image = Image.fromarray(levels)
    else:
        image = image.convert("RGB").convert(mode) if mode in ("1", "L", "P") else image.convert(mode)
    image.save(buffer, "PNG", **({"transparency": 7} if mode in ("P", "L") else {}))
    return buffer.getvalue()


def cmyk():
    buffer = io.BytesIO()
    Image.fromarray(photo(5, 60, 90)).convert("CMYK").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


FILES = {
    "jpeg": encoded(photo(3, 175, 201), "JPEG"),
    "png": encoded(photo(4), "PNG"),
    "grey": encoded(photo(5, channels=1)[..., 0], "JPEG"),
    **{mode: by_mode(mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")},
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("resize, augment", [("reference", "inception_crop"), ("bilinear", "shift")])
def test_an_image_in_memory_has_the_pixels_of_its_file(tmp_path, content, resize, augment):
    (tmp_path / "image").write_bytes(content)
    with Image.open(tmp_path / "image") as image:
        images = [str(tmp_path / "image"), tmp_path / "image", image]
        if image.mode != "I;16":
            images.append(np.asarray(image.convert("RGB")))
        seen = decode_images(images, Preprocessing(image_size=32, resize=resize, augment=augment))
        of_file, *others = (pixels for _, pixels in seen)
    assert of_file.shape == (32, 32, 3) and of_file.std() > 10
    for pixels in others:
        np.testing.assert_array_equal(pixels, of_file, strict=True)


@pytest.mark.parametrize("seed", range(4))
def test_an_array_of_a_cameras_jpeg_differs_from_its_file_at_most_at_the_border(tmp_path, seed):
    height, width = np.random.default_rng(seed).integers(60, 140, 2)
    (tmp_path / "camera.jpg").write_bytes(subsampled(photo(seed, height, width)))
    with Image.open(tmp_path / "camera.jpg") as image:
        images = [tmp_path / "camera.jpg", image, np.asarray(image)]
    seen = decode_images(images, Preprocessing(image_size=32))
    of_file, of_image, of_array = (pixels for _, pixels in seen)
    np.testing.assert_array_equal(of_array, of_image)
    np.testing.assert_array_equal(of_array[:, 2:-2], of_file[:, 2:-2])
    np.testing.assert_allclose(of_array, of_file, atol=4)


def test_cmyk_is_converted_as_the_decoder_does_it_but_for_rounding(tmp_path):
    (tmp_path / "image.jpg").write_bytes(cmyk())
    preprocessing = Preprocessing(image_size=32, dtype="uint8")
    with Image.open(tmp_path / "image.jpg") as image:
        assert image.mode == "CMYK"
        (_, of_file), (_, of_image) = decode_images([str(tmp_path / "image.jpg"), image], preprocessing)
    assert np.abs(of_file.astype(int) - of_image).max() <= 2


@pytest.mark.parametrize("exif", ["ignored", "respected"])
def test_a_pil_image_is_turned_as_its_file(tmp_path, exif):
    (tmp_path / "turned.jpg").write_bytes(noted(6))
    with Image.open(tmp_path / "turned.jpg") as image:
        seen = list(
            decode_images([tmp_path / "turned.jpg", image, image], Preprocessing(image_size=32, exif=exif))
        )
    np.testing.assert_array_equal(seen[0][1], seen[1][1])
    np.testing.assert_array_equal(seen[0][1], seen[2][1])


def test_mixed_images_are_named_in_order_as_the_command_predict_names_them(predictor, tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(photo(number, 50 + number, 70), "JPEG"))
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in opened]
    rows = [row for _, row in predictor.of_files(list(map(str, paths)))]
    mixed = [paths[0], opened[1], arrays[2], str(paths[3]), arrays[4]]
    predictions = predictor(image for image in mixed)
    assert predictions == [predictor.most_probable(row) for row in rows] == predictor(arrays)
    for prediction, row in zip(predictions, rows, strict=True):
        assert prediction.labels == tuple(np.argsort(-row)) and sum(prediction.probabilities) > 0.999
        assert prediction.names == tuple(predictor.trained.class_names[label] for label in prediction.labels)
    [best] = predictor(str(paths[0]), top=1)
    assert str(best) == f"{best.names[0]} {100 * best.probabilities[0]:.1f} %"
    assert repr(best) == f"Prediction({best})"
    assert best.as_json() == predictions[0].as_json()[:1]
    stacked = np.stack([arrays[0], arrays[0][:, ::-1]])
    assert predictor(stacked) == predictor(list(stacked)) and predictor(arrays[0]) == predictions[:1]
    assert predictor(np.array(list(map(str, paths)))) == predictions
    assert predictor([]) == [] and predictor.features([]).shape == (0, 512)


WRONG = {
    "grey": (
        np.zeros((8, 8), np.uint8),
        r"uint8 \(8, 8\) and must be uint8 .*; of a grey image take np.stack",
    ),
    "one": (np.zeros((8, 8, 1), np.uint8), r"of a grey image take np.repeat\(image, 3, axis=-1\)"),
    "rgba": (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\) .*; of RGBA take image\[..., :3\]"),
    "float": (np.zeros((8, 8, 3), np.float32), r"it is float32 \(8, 8, 3\) .*; of values in 0..1 take \(255"),
    "empty": (np.zeros((0, 8, 3), np.uint8), r"uint8 \(0, 8, 3\) and must be uint8 \(height, width, 3\)"),
    "bytes": (b"jpeg", "it is a bytes; give a path, a PIL image or a uint8 array"),
    "levels": (Image.new("F", (8, 8)), "its mode is F, whose levels have no fixed range"),
    "closed": (Image.open(io.BytesIO(FILES["jpeg"][:900])), "Pillow cannot load it: .*; give another"),
    "path": ("not/there.jpg", "it cannot be read: No such file or directory"),
}


@pytest.mark.parametrize("image, message", WRONG.values(), ids=WRONG)
def test_what_is_no_image_is_one_line_with_the_remedy(predictor, image, message):
    name = "'not/there.jpg'" if isinstance(image, str) else "image 1"
    for ask in (predictor, predictor.features):
        with pytest.raises(UserError, match=f"^{name}: .*{message}"):
            ask([photo(0), image])
    with pytest.raises(UserError, match=message):
        ep.pixels(image, predictor.trained)


def test_no_class_is_refused(predictor):
    with pytest.raises(UserError, match="top=0 names no class; give 1 or more"):
        predictor(photo(0), top=0)


def small(name):
    """Returns a network of this kind with few layers, its variables and two images."""
    size = max(32, NETWORKS[name].least_size)
    model = tiny_form(untrained(name, 5))
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    return model, initial_variables(model, size, seed=0), images


@pytest.mark.parametrize("name", KINDS)
def test_every_network_has_features(name):
    model, variables, images = small(name)
    features = jax.eval_shape(lambda x: features_of(model, variables, x), images)
    channels = len(variables["params"]["classifier"]["kernel"])
    assert (features.shape, features.dtype) == ((2, channels), np.float32)


@pytest.mark.parametrize("name", ["b0", "resnet50", "resnet18_cifar"])
def test_logits_are_features_times_the_kernel_and_the_bias(name):
    model, variables, images = small(name)
    features, logits = jax.jit(
        lambda x: (features_of(model, variables, x), model.apply(variables, x, train=False))
    )(images)
    classifier = variables["params"]["classifier"]
    expected = np.asarray(features) @ classifier["kernel"] + classifier["bias"]
    assert np.std(logits) > 0
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_features_of_a_predictor_give_its_probabilities_also_of_mirror_images():
    trained = random_resnet9(view=CENTRE)
    predictor = Predictor(trained, batch=2, flip=True)
    photos = [photo(number, 40, 50) for number in range(3)]
    features = predictor.features(photos)
    assert features.dtype == np.float32 and features.shape == (3, trained.num_features)
    logits = features @ trained.variables["params"]["classifier"]["kernel"] / 8
    for row, prediction in zip(jax.nn.softmax(logits), predictor(photos), strict=True):
        np.testing.assert_allclose(row[np.array(prediction.labels)], prediction.probabilities, atol=1e-5)


def test_pixels_are_those_of_predict_in_whole_levels(predictor, tmp_path):
    trained = predictor.trained
    path = tmp_path / "camera.jpg"
    path.write_bytes(FILES["jpeg"])
    levels = ep.pixels(path, trained)
    [(_, seen)] = decode_images([path], predictor.preprocessing)
    assert levels.dtype == np.uint8 and levels.shape == (32, 32, 3)
    np.testing.assert_array_equal(levels, np.clip(np.rint(seen), 0, 255))
    with Image.open(path) as image:
        np.testing.assert_array_equal(ep.pixels(image, trained), levels)
    [(_, of_file)] = predictor.of_files([str(path)])
    np.testing.assert_allclose(predictor.probabilities(levels[None])[0], of_file, atol=0.02)  # rounded levels


def test_a_notebook_is_shown_a_line_and_not_every_weight():
    trained = random_resnet9(origin={"source": "weights.h5"})
    assert repr(trained) == (
        "Trained(ResNet-9: 3 classes (cat, cow, dog), images of 32 px, 6,569,536 parameters, from weights.h5)"
    )
    assert repr(Predictor(trained)) == f"Predictor({trained!r}, 32 images at a time)"
    assert "(a, b, c, …)" in repr(random_resnet9(("a", "b", "c", "d")))
