"""Thumbnails and contact sheets, read back."""

import io

import jax.numpy as jnp
import numpy as np
from PIL import Image

from efficientnet_pod.data.contact_sheet import thumbnail, write_contact_sheet


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_png_is_rounded_and_made_smaller_but_never_larger():
    levels = np.linspace(-20, 300, 7 * 5 * 3).reshape(7, 5, 3).astype(np.float32)
    shown = pixels(thumbnail(levels, longest_side=128))
    np.testing.assert_array_equal(shown, np.clip(np.round(levels), 0, 255).astype(np.uint8))
    half = jnp.full((100, 300, 3), 77, "bfloat16")
    shown = pixels(thumbnail(np.asarray(half), longest_side=128))
    assert shown.shape == (43, 128, 3) and (shown == 77).all()


def test_a_sheet_has_a_title_above_each_tile_and_leaves_absent_images_white(tmp_path):
    images = [np.full((8, 8, 3), 100.4, np.float32), None, np.full((32, 32, 3), 7, np.uint8)]
    write_contact_sheet(tmp_path / "s.png", images, columns=2, side=16, titles=["I\n9", "\n", "I\nŁ"])
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (4 + 2 * (24 + 16 + 4), 4 + 2 * (16 + 4), 3)
    assert (sheet[28:44, 4:20] == 100).all() and (sheet[72:88, 4:20] == 7).all()
    assert (sheet[:, 20:] == 255).all() and sheet[4:28, 4:20].min() < 100
