"""Every source that reads a folder's photos in another layout, against the folder: images, order, faults."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from photo_archives import SYNSETS, write_imagenet_tars, write_kaggle, write_parquet, write_shards
from photos import write_folder

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import eval_batches, train_batches
from efficientnet_pod.data.prepare import prepare
from efficientnet_pod.data.skips import Skips
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.data.sources.types import Indexed, Source
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing

KINDS = ["parquet", "tar", "kaggle", "imagenet-tars", "prepared"]
SMALL = Preprocessing(image_size=16, dtype="uint8")


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    counts = {"train": (9, 6, 6), "validation": (2, 3, 2)}
    return write_folder(
        tmp_path / "photos",
        {f"{split}/{s}": n for split in counts for s, n in zip(SYNSETS, counts[split], strict=True)},
    )


def opened(kind: str, photos: Path, out: Path, monkeypatch) -> Source:
    """Returns the source of this kind of the photos of a folder."""
    if kind == "prepared":
        from recipes import load

        from efficientnet_pod.recipe.reading import read_recipe

        config = load("digits.py")
        config["data"] |= {"name": f"folder:{photos}"}
        prepare(read_recipe(config).data, resize=1000, output=str(out))
    elif kind == "imagenet-tars":
        write_imagenet_tars(photos, out, monkeypatch)
    else:
        write = {"parquet": write_parquet, "tar": write_shards, "kaggle": write_kaggle}[kind]
        write(photos, out)
    return open_source(f"{kind}:{out}")


def stored(split) -> list[dict]:
    return list(read_part(split, 0, split.num_examples).as_numpy_iterator())


def batches(source: Source, share: HostShare, count: int, seed: int = 0, **options) -> list[dict]:
    stream = train_batches(source, SMALL, share, seed=seed, **options).as_numpy_iterator()
    return [next(stream) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_labels_are_the_folders_byte_for_byte(kind, photos, tmp_path, monkeypatch):
    source, folder = opened(kind, photos, tmp_path / "out", monkeypatch), open_source(f"folder:{photos}")
    assert source.class_names == folder.class_names == SYNSETS and source.warnings == ()
    for split, reference in ((source.train, folder.train), (source.eval, folder.eval)):
        ours, theirs = (
            sorted((example["image"], int(example["label"])) for example in stored(part))
            for part in (split, reference)
        )
        assert ours == theirs and len(ours) == split.num_examples > 6
        names = [example["name"] for example in stored(split)]
        assert len(set(names)) == len(names) and all(str(tmp_path).encode() in name for name in names)
    assert len(bytes.fromhex(source.fingerprint)) == 32


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_counts_each_image_once_with_the_folders_pixels(kind, photos, tmp_path, monkeypatch):
    source, folder = opened(kind, photos, tmp_path / "out", monkeypatch), open_source(f"folder:{photos}")

    def rows(of):
        parts = list(eval_batches(of, SMALL, HostShare(4)).as_numpy_iterator())
        assert sum(part["mask"].sum() for part in parts) == 7
        return sorted(
            (image.tobytes(), int(label))
            for part in parts
            for image, label, mask in zip(part["image"], part["label"], part["mask"], strict=True)
            if mask
        )

    assert rows(source) == rows(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumed_at_any_step_has_the_batches_of_the_uninterrupted_one(
    kind, photos, tmp_path, monkeypatch
):
    source = opened(kind, photos, tmp_path / "out", monkeypatch)
    whole = batches(source, HostShare(5), 9, seed=3)  # more than two epochs of 21
    for step in (1, 4, 5, 8):
        resumed = batches(source, HostShare(5, first_image=5 * step), 1, seed=3)[0]
        for name in ("image", "label"):
            np.testing.assert_array_equal(resumed[name], whole[step][name])
    halves = [
        batches(source, HostShare(6, devices=(host,), num_devices=2, num_replicas=2), 3) for host in (0, 1)
    ]
    together = batches(source, HostShare(6, devices=(0, 1), num_devices=2, num_replicas=2), 3)
    for step in range(3):
        both = np.concatenate([half[step]["image"] for half in halves])
        np.testing.assert_array_equal(both, together[step]["image"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_holds_each_image_once_in_another_order_than_the_one_before(
    kind, photos, tmp_path, monkeypatch
):
    source = opened(kind, photos, tmp_path / "out", monkeypatch)
    plain = Preprocessing(image_size=16, dtype="uint8", augment="shift", max_shift=0)
    stream = train_batches(source, plain, HostShare(7), seed=1).as_numpy_iterator()
    epochs = [[image.tobytes() for _ in range(3) for image in next(stream)["image"]] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]
    assert len(set(epochs[0])) == 21


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_bad_image_is_named_or_skipped_as_in_a_folder(kind, photos, tmp_path, monkeypatch):
    file = photos / "train" / SYNSETS[1] / "002.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    source = opened(kind, photos, tmp_path / "out", monkeypatch)
    with pytest.raises(UserError, match=r"cannot be used: truncated JPEG.*skip_corrupt=N") as caught:
        batches(source, HostShare(7), 3)
    assert "\n" not in str(caught.value) and f"image '{tmp_path}/out/" in str(caught.value)
    warnings = []
    skips = Skips(1, warn=warnings.append)
    assert len(batches(source, HostShare(7), 6, skips=skips)) == 6
    assert len(skips.names) == len(warnings) == 1


@pytest.mark.parametrize("kind", ["parquet", "tar", "imagenet-tars"])
def test_a_file_that_is_cut_while_it_is_read_stops_with_its_name(kind, photos, tmp_path, monkeypatch):
    source = opened(kind, photos, tmp_path / "out", monkeypatch)
    for file in (tmp_path / "out").glob("*train*"):
        file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(UserError, match=f"split cannot be read: file '{tmp_path}/out/.*train") as caught:
        batches(source, HostShare(7), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "kaggle", "imagenet-tars", "prepared"])
def test_any_image_is_fetched_by_its_number_alone_or_with_others(kind, photos, tmp_path, monkeypatch):
    split = opened(kind, photos, tmp_path / "out", monkeypatch).train
    assert isinstance(split, Indexed)
    in_order = stored(split)
    for number in (20, 0, 7):
        example = {name: value.numpy() for name, value in split.fetch(tf.constant(number, tf.int64)).items()}
        assert example == in_order[number]
    if split.takes_many:
        many = split.fetch(tf.constant([20, 0, 7], tf.int64))
        for name, values in many.items():
            assert values.numpy().tolist() == [in_order[number][name] for number in (20, 0, 7)]
