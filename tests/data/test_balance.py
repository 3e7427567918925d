"""Weights of classes against scikit-learn; the order that shows each class equally often; bad input."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from photos import write_folder, write_records
from recipes import load
from rich.console import Console
from sklearn.utils.class_weight import compute_class_weight

from efficientnet_pod.cli.main import main
from efficientnet_pod.data.balance import class_weights
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.inspect import describe_data
from efficientnet_pod.data.pipeline import train_batches
from efficientnet_pod.data.sources.digits import indexed_arrays
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.types import Records, Source
from efficientnet_pod.data.stored import labelled
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.recipe.reading import read_recipe

LABELS = np.random.default_rng(0).permutation([0] * 40 + [1] * 13 + [3] * 3).astype(np.int32)
NAMES = ("often", "seldom", "never", "rare")


def source(size=4):
    """Returns images whose first level is their number."""
    images = np.zeros((len(LABELS), size, size, 3), np.uint8)
    images[:] = np.arange(len(LABELS)).reshape(-1, 1, 1, 1)
    split = indexed_arrays(images, LABELS)
    return Source("unequal", NAMES, split, split)


def batches(count, *, start=0, host=0, hosts=1, global_batch=12, of=None, **fields):
    preprocessing = Preprocessing(**({"image_size": 4, "augment": "shift", "dtype": "uint8"} | fields))
    share = HostShare(global_batch, start * global_batch, (host,), hosts)
    stream = train_batches(of or source(), preprocessing, share, seed=fields.pop("seed", 0), balanced=True)
    return list(itertools.islice(stream.as_numpy_iterator(), count))


def numbers_and_labels(found):
    number, label = (np.concatenate([part[name] for part in found]) for name in ("image", "label"))
    return number[:, 0, 0, 0].astype(int), label


def test_balanced_weights_are_those_of_scikit_learn():
    weights = np.array(class_weights("balanced", NAMES, LABELS))
    present = np.unique(LABELS)
    expected = compute_class_weight("balanced", classes=present, y=LABELS)
    np.testing.assert_allclose(weights[present], expected, rtol=1e-12)
    assert weights[2] == 1.0  # no image has it
    assert weights[LABELS].mean() == pytest.approx(1.0)
    assert [(weights * np.bincount(LABELS, minlength=4))[i] for i in present] == pytest.approx([56 / 3] * 3)


def test_a_table_weighs_the_classes_it_names():
    assert class_weights((("rare", 5.0), ("often", 0.25)), NAMES, None) == (0.25, 1.0, 1.0, 5.0)
    assert class_weights("none", NAMES, None) == ()


def test_every_class_comes_equally_often_and_each_of_its_images_before_any_comes_again():
    number, label = numbers_and_labels(batches(60))
    assert (np.sort(label.reshape(-1, 3), axis=1) == [0, 1, 3]).all()
    assert len({tuple(turn) for turn in label.reshape(-1, 3)}) == 6  # in every order
    np.testing.assert_array_equal(LABELS[number], label)
    for wanted in (0, 1, 3):
        own, size = number[label == wanted], int((LABELS == wanted).sum())
        passes = own[: len(own) // size * size].reshape(-1, size)
        assert (np.sort(passes, axis=1) == np.flatnonzero(LABELS == wanted)).all()
        assert len({tuple(one) for one in passes}) == min(len(passes), {40: 6, 13: 18, 3: 6}[size])


@pytest.mark.parametrize(("hosts", "start"), [(1, 7), (2, 0), (3, 11)])
def test_the_order_does_not_depend_on_hosts_or_on_where_a_run_enters(hosts, start):
    whole = batches(20, max_shift=1)
    parts = [batches(20 - start, start=start, host=host, hosts=hosts, max_shift=1) for host in range(hosts)]
    for name in ("image", "label"):
        together = [np.concatenate([part[i][name] for part in parts]) for i in range(20 - start)]
        np.testing.assert_array_equal(together, [batch[name] for batch in whole[start:]])


def test_an_image_that_comes_again_is_augmented_anew():
    white = np.full((4, 4, 4, 3), 255, np.uint8)
    split = indexed_arrays(white, np.array([0, 0, 0, 1], np.int32))
    found = batches(1, global_batch=80, max_shift=2, of=Source("white", ("many", "one"), split, split))[0]
    ones = found["image"][found["label"] == 1]
    assert len(ones) == 40 and len({image.tobytes() for image in ones}) > 15  # of 25 shifts


def test_labels_that_are_not_known_are_read():
    known = source()
    unknown = dataclasses.replace(known, train=dataclasses.replace(known.train, labels=None))
    np.testing.assert_array_equal(labelled(unknown, "sampling").train.labels, LABELS)
    outside = dataclasses.replace(unknown, class_names=NAMES[:3])
    with pytest.raises(UserError, match="image number .* has the label 3, outside 0..2; correct its label"):
        labelled(outside, "sampling")
    files = dataclasses.replace(known, train=Records((), lambda record, place: {}))
    with pytest.raises(
        UserError, match=r"config.data.sampling=balanced needs the label .*data prepare --help"
    ):
        labelled(files, "sampling")


def test_labels_follow_the_names_of_the_classes(tmp_path):
    folder = open_source(f"folder:{write_folder(tmp_path, {'cat': 12, 'dog': 5})}")
    turned = folder.relabelled(("dog", "cat"), (1, 0))
    for images in (folder, turned):
        stored = [int(images.train.fetch(tf.constant(i, tf.int64))["label"]) for i in range(images.num_train)]
        assert images.train.labels.tolist() == stored
    assert np.bincount(turned.train.labels).tolist() == [4, 11]


def described(of, **fields):
    config, out = load("digits.py"), io.StringIO()
    config["data"] |= fields
    data = read_recipe(config).data
    describe_data(of, data, image_size=8, check=20, console=Console(file=out, width=400))
    return " ".join(out.getvalue().split())


def test_describe_warns_of_rare_classes_and_names_the_fields():
    text = described(source())
    assert "class 'often' has 40 training images and 'rare' 3, 13 times fewer" in text
    assert "--config.data.class_weights=balanced" in text and "--config.data.sampling=balanced" in text
    assert "times fewer" not in described(source(), sampling="balanced")
    assert "times fewer" not in described(open_source("digits"))
    known = source()
    few = dataclasses.replace(known, train=dataclasses.replace(known.train, labels=None))
    assert "times fewer" not in described(few)  # 20 of 56 images say nothing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["class_weights={'9': 2, '10': 3}"], "names the class '10', which the images do not have; did you"),
        (["class_weights={'9': 0}"], "must be none or balanced, or above 0 and at most 1,000,000; set --"),
        (["class_weights={'9': -1}"], "must be none or balanced, or above 0 and at most 1,000,000; set --"),
        (["class_weights=(('9', float('nan')),)"], "config.data.class_weights"),
        (["class_weights=(('9', 1e999),)"], "must be none or balanced, or above 0 and at most 1,000,000; se"),
        (["class_weights={'9': 'much'}"], "it must be none, balanced, or a table with one weight for each"),
        (["class_weights=(('9', 1), (9, 2))"], "it must be none, balanced, or a table with one weight for e"),
        (["class_weights=ballanced"], "must be none or balanced, or above 0"),
        (["class_weights={}"], "it must be none, balanced, or a table"),
        (["sampling=class"], "config.data.sampling='class' is unknown"),
        (["sampling=balanced", "in_memory=True"], "use --config.data.in_memory=False"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_compiled(tmp_path, capsys, arguments, words):
    flags = [f"--config.data.{argument}" for argument in arguments]
    assert main(["train", "--config=digits", f"--workdir={tmp_path / 'run'}", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_record_files_are_refused_before_anything_is_compiled(tmp_path, capsys):
    write_records(tmp_path, "train", [3, 3])
    write_records(tmp_path, "validation", [2])
    flags = [f"--config.data.name=tfrecord:{tmp_path}", "--config.data.class_weights=balanced"]
    assert main(["train", "--config=digits", f"--workdir={tmp_path / 'run'}", *flags]) == 2
    error = capsys.readouterr().err
    assert "config.data.class_weights=balanced needs the label of each training image" in error
    assert error.count("\n") == 1
