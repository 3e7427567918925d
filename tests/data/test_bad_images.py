"""Odd and damaged images: the fault that is found, or the pixels that Pillow shows."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from photos import encoded, photo
from PIL import Image

from efficientnet_pod.data.bad_images import find_fault
from efficientnet_pod.data.transforms import preprocess
from efficientnet_pod.data.transforms.preprocess import eval_image, train_image
from efficientnet_pod.recipe.preprocessing import Preprocessing

CROP = Preprocessing(image_size=16, augment="inception_crop")
WHOLE = Preprocessing(image_size=16, augment="shift")


def saved(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG, PNG = encoded(photo(9), "JPEG"), encoded(photo(9), "PNG")
# Without subsampling: decoders interpolate colours over the edge of a crop that they do not decode.
PROGRESSIVE = saved(Image.fromarray(photo(9)), progressive=True, subsampling=0)
PREVIEW = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(JPEG)) + JPEG + JPEG[2:]  # in an APP1 segment


def png(width, height, depth, colour, rows):
    """Returns a PNG of raw rows, each with its filter byte; Pillow writes no 16-bit colours."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


SIZE = JPEG.index(b"\xff\xc0") + 5  # of height and width, two bytes each


def jpeg_claiming(width, height):
    return JPEG[:SIZE] + struct.pack(">HH", height, width) + JPEG[SIZE + 4 :]


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


REFUSED = {
    "tail missing": (JPEG[:-100], "truncated JPEG, its end marker is missing"),
    "end marker missing": (JPEG[:-2], "truncated JPEG, its end marker is missing"),
    "half missing": (JPEG[: len(JPEG) // 2], "truncated JPEG, its end marker is missing"),
    "header only": (JPEG[:30], "truncated JPEG, its end marker is missing"),
    "three bytes": (JPEG[:3], "truncated JPEG, its end marker is missing"),
    "progressive, half missing": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated JPEG"),
    "with a preview, half missing": (PREVIEW[: -len(JPEG) // 2], "truncated JPEG, its end marker is missing"),
    "JPEG with a damaged header": (JPEG[:SIZE] + bytes(4) + JPEG[SIZE + 4 :], "damaged JPEG, its header"),
    "JPEG without quantisation": (JPEG.replace(b"\xff\xdb", b"\xff\xfe"), "damaged JPEG"),
    "JPEG of 60,000 squared": (
        jpeg_claiming(60000, 60000),
        "60,000 by 60,000 pixels, more than the 89,478,485",
    ),
    "PNG of 60,000 squared": (png(60000, 60000, 8, 2, b""), "60,000 by 60,000 pixels, more than"),
    "PNG of 12,000 by 8,000, 12 kB": (png(12000, 8000, 1, 0, bytes(1501 * 8000)), "12,000 by 8,000 pixels"),
    "PNG of 2^31 squared": (png(2**31 - 1, 2**31 - 1, 8, 2, b""), "2,147,483,647 by 2,147,483,647 pixels"),
    "PNG with a flipped byte": (flipped(PNG, 60), "damaged PNG"),
    "PNG cut": (PNG[:-30], "truncated PNG, its end is missing"),
    "PNG header cut": (PNG[:20], "truncated PNG, its header is incomplete"),
    "empty": (b"", "it is empty, 0 bytes"),
    "TIFF": (saved(Image.fromarray(photo(1)), "TIFF"), "nor AVIF, it begins with b'II*"),
    "GIF cut": (saved(Image.fromarray(photo(1)), "GIF")[:-100], "damaged GIF: "),
    "WebP cut": (saved(Image.fromarray(photo(1)), "WEBP")[:200], "damaged WEBP, its header cannot be read"),
    "BMP cut": (saved(Image.fromarray(photo(1)), "BMP")[:200], "damaged BMP: "),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "pointer of Git LFS",
    ),
    "text": (b"<!DOCTYPE html>", "neither JPEG, PNG, WebP, GIF, BMP nor AVIF, it begins with b'<!DOCTYP'"),
    "one byte": (b"\xff", "neither JPEG, PNG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unusable_image_is_refused_wherever_the_crop_lies_and_the_reason_is_found(name):
    data, reason = REFUSED[name]
    assert reason in (find_fault({"image": data, "label": 1}, 2) or "")
    for preprocessing in (CROP, WHOLE):
        with pytest.raises(tf.errors.InvalidArgumentError):
            eval_image(tf.constant(data), preprocessing)
        for seed in range(3):
            with pytest.raises(tf.errors.InvalidArgumentError):
                train_image(tf.constant(data), tf.constant([seed, 0], tf.int64), preprocessing)


SIXTEEN = np.random.default_rng(0).integers(0, 2**16, (40, 40, 3), dtype=np.uint16)
GREY_ROWS = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SIXTEEN[..., 0])
COLOUR_ROWS = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SIXTEEN)
PALETTE = Image.fromarray(photo(3, 40, 40)).quantize(16)

ACCEPTED = {
    "JPEG": JPEG,
    "ten bytes behind the end": JPEG + b"\n" * 10,
    "5,000 bytes behind the end": JPEG + b"\xff\xda" + b"x" * 5000,
    "with a preview": PREVIEW,
    "progressive": PROGRESSIVE,
    "one pixel": encoded(photo(1, 1, 1), "JPEG"),
    "one pixel PNG": encoded(photo(1, 1, 1), "PNG"),
    "a column": encoded(photo(1, 50, 1), "JPEG"),
    "grey": saved(Image.fromarray(photo(2)).convert("L")),
    "CMYK": saved(Image.fromarray(photo(2)).convert("CMYK")),
    "palette": saved(PALETTE, "PNG"),
    "palette with a transparent colour": saved(PALETTE, "PNG", transparency=0),
    "black and white": saved(Image.fromarray(photo(2)).convert("1"), "PNG"),
    "16-bit colour": png(40, 40, 16, 2, COLOUR_ROWS),
    "PNG with bytes behind the end": PNG + b"\xff\xd9",
    "restart markers": saved(Image.fromarray(photo(2)), subsampling=0, restart_marker_blocks=2),
    "GIF": saved(Image.fromarray(photo(1)), "GIF"),
    "GIF of two pictures": saved(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(90)]),
    "WebP with transparency": saved(Image.fromarray(photo(1)).convert("RGBA"), "WEBP"),
    "BMP": saved(Image.fromarray(photo(1)), "BMP"),
    "grey BMP": saved(Image.fromarray(photo(1)).convert("L"), "BMP"),
    "BMP of four channels": saved(Image.fromarray(photo(1)).convert("RGBA"), "BMP"),
    "AVIF": saved(Image.fromarray(photo(1)), "AVIF"),
    "mid-grey": encoded(np.full((40, 40, 3), 128, np.uint8), "JPEG"),
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("preprocessing", [CROP, WHOLE], ids=["crop", "whole"])
def test_an_odd_but_usable_image_is_what_pillow_shows(name, preprocessing):
    data = ACCEPTED[name]
    assert find_fault({"image": data, "label": np.int32(0)}, 1) is None
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    # Pillow multiplies ink and paper with a rounding of its own; all else is the same to the bit.
    tolerance = 2.5 if name == "CMYK" else 1e-4
    ours, theirs = (eval_image(tf.constant(value), preprocessing) for value in (data, pixels))
    np.testing.assert_allclose(ours, theirs, atol=tolerance)
    key = tf.constant([7, 7], tf.int64)
    ours, theirs = (train_image(tf.constant(value), key, preprocessing) for value in (data, pixels))
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_of_sixteen_bits_the_upper_eight_are_kept():
    # Pillow shows 16-bit grey in 32 bits, and its convert("RGB") clips at 255 instead of scaling.
    image = eval_image(tf.constant(png(40, 40, 16, 0, GREY_ROWS)), WHOLE)
    with Image.open(io.BytesIO(png(40, 40, 16, 0, GREY_ROWS))) as stored:
        upper = (np.asarray(stored).astype(np.int64) // 256).astype(np.uint8)
    np.testing.assert_array_equal(image, eval_image(tf.constant(np.repeat(upper[..., None], 3, -1)), WHOLE))


@pytest.mark.parametrize("preprocessing", [CROP, WHOLE], ids=["crop", "whole"])
def test_the_orientation_in_exif_is_ignored(preprocessing):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter when shown
    turned = saved(Image.fromarray(photo(9)), quality=95, subsampling=0, exif=exif)
    assert Image.open(io.BytesIO(turned)).getexif()[274] == 6
    np.testing.assert_array_equal(
        eval_image(tf.constant(turned), preprocessing), eval_image(tf.constant(JPEG), preprocessing)
    )


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["JPEG", "PNG"])
@pytest.mark.parametrize("preprocessing", [CROP, WHOLE], ids=["crop", "whole"])
def test_the_limit_of_pixels_is_that_of_pillow_and_inclusive(data, preprocessing, monkeypatch):
    assert preprocess.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(preprocess, "MAX_PIXELS", 48 * 64)
    eval_image(tf.constant(data), preprocessing)
    monkeypatch.setattr(preprocess, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="an image of more than 3,071 pixels"):
        eval_image(tf.constant(data), preprocessing)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_a_jpeg_cut_and_ended_anew_is_found_though_every_decoder_takes_it(share, options):
    noise = np.random.default_rng(0).integers(0, 60, (90, 120, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(photo(9, 90, 120) // 2 + noise), **options)
    cut = whole[: int(len(whole) * share)] + b"\xff\xd9"
    with Image.open(io.BytesIO(cut)) as image:
        assert (np.asarray(image)[-1, -8:] == 128).all()
    assert find_fault({"image": cut, "label": 0}, 1) == "truncated JPEG, to which an end marker was added"
    assert find_fault({"image": whole, "label": 0}, 1) is None


def test_labels_and_arrays():
    image = np.zeros((4, 4, 3), np.uint8)
    assert find_fault({"image": image, "label": 1}, 2) is None
    for label in (-1, 2):
        assert find_fault({"image": image, "label": label}, 2) == f"its label {label} is outside 0..1"


@pytest.mark.parametrize("data", [PROGRESSIVE[: len(PROGRESSIVE) // 2], PROGRESSIVE[:-20], JPEG[:200]])
def test_a_torn_image_is_refused_before_the_decoder_prints_a_line_without_its_name(data, capfd):
    for preprocessing in (CROP, WHOLE):
        with pytest.raises(tf.errors.InvalidArgumentError, match="a torn JPEG"):
            eval_image(tf.constant(data), preprocessing)
    assert "truncated JPEG" in (find_fault({"image": data, "label": 0}, 1) or "")
    assert capfd.readouterr() == ("", "")
