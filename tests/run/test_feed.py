"""The batches of a run in phases against the one stream of images that a run without phases sees."""

import itertools
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorflow as tf
from photos import prepare_numbered_photos
from recipes import phased_digits

from efficientnet_pod.data import pipeline
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.types import Indexed, Source
from efficientnet_pod.pod.mesh import create_mesh
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.feed import STEPS_AHEAD, Feed, train_batches
from efficientnet_pod.run.run import Run

IMAGES = 103
# By hand: 3.5 epochs of 103 images are 45.06 steps of 8; 5 less 45 such, 9.69 of 16.
CHANGE, LAST = 45, 55
SIZES = [(8, 16)] * CHANGE + [(16, 32)] * (LAST - CHANGE)  # images and pixels of each step


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Images that are labelled with their own number: fetched by it, and in records."""

    def fetch(index):
        label = tf.cast(index, tf.int32)
        return {"image": tf.zeros((4, 4, 3), tf.uint8), "label": label, "name": tf.strings.as_string(index)}

    names = tuple(map(str, range(IMAGES)))
    root = prepare_numbered_photos(tmp_path_factory.mktemp("tfds"))
    return {
        "indexed": Source("numbers", names, Indexed(IMAGES, fetch), Indexed(1, fetch)),
        "records": open_source("numbered_photos", data_dir=str(root)),
    }


def phased_run(source, *, host=0, processes=(0, 0), replicas=0):
    """Returns a run of one host; ``processes`` are those of the devices in the order of the mesh."""
    config = phased_digits(epochs=5.0)
    config["phases"]["small"]["global_batch"], config["global_batch"] = 8, 16
    config["phases"]["large"]["from_epoch"] = 3.5
    recipe = read_recipe(config | {"bn_group_size": 2, "replicas": replicas})
    numbers = {name: getattr(source, name) for name in ("num_train", "num_eval", "num_classes")}
    numbers |= {"num_devices": len(processes), "num_hosts": len(set(processes))}
    plan = resolve(recipe, **numbers, default_dtype="float32")
    runtime = SimpleNamespace(place=host, host_count=plan.num_hosts)
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(process_index=place) for place in processes]))
    return Run(runtime, source, plan, mesh, *[None] * 4)


CASES = [("indexed", step) for step in (0, 7, CHANGE - 1, CHANGE, CHANGE + 3, LAST)]
CASES += [("records", step) for step in (0, CHANGE + 3)]


@pytest.mark.parametrize(("kind", "start_step"), CASES)
@pytest.mark.parametrize("host_count", [1, 2])
def test_every_phase_goes_on_at_the_image_where_the_one_before_ended(sources, host_count, kind, start_step):
    processes = [0, host_count - 1]
    runs = [phased_run(sources[kind], host=host, processes=processes) for host in range(host_count)]
    feeds = [list(train_batches(run, start_step=start_step)) for run in runs]
    for batches in feeds:
        shapes = [batch["image"].shape for batch in batches]
        assert shapes == [(images // host_count, px, px, 3) for images, px in SIZES[start_step:]]
    stream = [batch["label"] for step in zip(*feeds, strict=True) for batch in step]
    before = sum(images for images, _ in SIZES[:start_step])
    expected = one_stream(sources[kind], before)
    after = sum(images for images, _ in SIZES[start_step:])
    np.testing.assert_array_equal(np.concatenate([*stream, []]), list(itertools.islice(expected, after)))


@pytest.mark.parametrize("kind", ["indexed", "records"])
@pytest.mark.parametrize(
    "processes", [[0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 1, 0], [0, 1], [0, 0, 0, 0], [0]], ids=str
)
def test_replica_number_r_has_the_images_of_its_place_in_the_step(sources, kind, processes):
    """Eight replicas in groups of two: micro-batches of all devices, of which each computes one or two."""
    runs = [
        phased_run(sources[kind], host=host, processes=processes, replicas=8)
        for host in sorted(set(processes))
    ]
    feeds, stream = [train_batches(run, start_step=CHANGE) for run in runs], one_stream(sources[kind], 360)
    devices = [np.flatnonzero(np.array(processes) == host) for host in range(len(runs))]
    at_once = 2 if len(processes) == 1 else 1
    for _ in range(4):
        of_replica = {}
        for turn in range(8 // len(processes) // at_once):
            for own, feed in zip(devices, feeds, strict=True):
                labels = next(feed)["label"].reshape(len(own), at_once, 2)
                replicas = (turn * len(processes) + own[:, None]) * at_once + np.arange(at_once)
                of_replica |= dict(zip(replicas.ravel(), labels.reshape(-1, 2).tolist(), strict=True))
        assert [of_replica[number] for number in range(8)] == [[next(stream), next(stream)] for _ in range(8)]


def one_stream(source, first_image):
    """Yields the labels that one host sees without phases."""
    run = phased_run(source)
    dataset = pipeline.train_batches(source, run.preprocessing(), HostShare(2, first_image), seed=0)
    for batch in dataset.as_numpy_iterator():
        yield from batch["label"]


@pytest.mark.parametrize(("kind", "ahead"), [("indexed", STEPS_AHEAD), ("records", 13)])  # 13 · 8 ≥ 103
def test_the_next_phase_is_opened_ahead(sources, kind, ahead, monkeypatch):
    """Steps of the first phase that were still to come when the second one's input was opened."""
    steps, opened = 0, []

    def empty(source, preprocessing, share, **_):
        def open_input():
            opened.append(CHANGE - steps)
            return itertools.repeat(share.global_batch)

        return SimpleNamespace(as_numpy_iterator=open_input)

    monkeypatch.setattr(pipeline, "train_batches", empty)
    sizes = []
    for steps, size in enumerate(train_batches(phased_run(sources[kind]), start_step=0), start=1):  # noqa: B007
        sizes.append(size)
    assert opened == [CHANGE, ahead]
    assert sizes == [8] * CHANGE + [16] * (LAST - CHANGE)


def test_an_input_begins_to_work_when_it_is_opened(sources):
    """So that a phase's first batches are made during the last steps of the one before."""
    fetched = []
    numbers = sources["indexed"]

    def fetch(index):
        tf.py_function(lambda i: fetched.append(int(i)), [index], [])
        return numbers.train.fetch(index)

    watched = Source("watched", numbers.class_names, Indexed(IMAGES, fetch), numbers.eval)
    dataset = pipeline.train_batches(watched, phased_run(numbers).preprocessing(), HostShare(4), seed=0)
    opened = dataset.as_numpy_iterator()
    deadline = time.monotonic() + 60
    while len(fetched) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(fetched) >= 8
    del opened


def test_inputs_are_traced_when_they_are_made(sources, monkeypatch):
    """And not when a phase begins: TensorFlow traces an input with a policy for seconds."""
    traced = []
    monkeypatch.setattr(
        pipeline, "train_image", lambda image, key, preprocessing: traced.append(1) or tf.zeros((4, 4, 3))
    )
    preprocessing = phased_run(sources["indexed"]).preprocessing()
    batches = pipeline.train_batches(sources["indexed"], preprocessing, HostShare(4), seed=0)
    before = len(traced)
    assert before > 0
    next(batches.as_numpy_iterator())
    assert len(traced) == before


def labelled(count):
    return [{"label": np.full((8,), i, dtype=np.int32)} for i in range(count)]


def feed_of(batches):
    return closing(Feed(batches, create_mesh(jax.devices(), 4)))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_batch_comes_once_and_in_order_and_then_no_more(count):
    with feed_of(iter(labelled(count))) as feed:
        assert [int(feed.next()["label"][0]) for _ in range(count)] == list(range(count))
        for _ in range(2):  # whoever asks again gets the same answer
            with pytest.raises(StopIteration):
                feed.next()


def test_two_batches_are_made_ahead_and_no_more():
    taken = []

    def source():
        for i, batch in enumerate(labelled(6)):
            taken.append(i)
            yield batch

    with feed_of(source()) as feed:
        for got in range(3):
            deadline = time.monotonic() + 60
            while len(taken) < got + 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)  # in which a thread that does not stop would go on
            assert len(taken) == got + 2
            feed.next()


def test_an_error_of_the_input_comes_in_its_place():
    def source():
        yield from labelled(1)
        raise OSError("disk gone")

    with feed_of(source()) as feed:
        feed.next()
        for _ in range(2):
            with pytest.raises(OSError, match="disk gone"):
                feed.next()


def test_a_wait_can_be_given_up_and_what_hangs_can_be_closed(monkeypatch):
    monkeypatch.setattr("efficientnet_pod.run.feed._CLOSE_SECONDS", 0.2)
    goes_on = threading.Event()

    def source():
        goes_on.wait(60)
        yield from labelled(1)

    began = time.monotonic()
    with feed_of(source()) as feed:
        assert feed.next(lambda: True) is None
    assert time.monotonic() - began < 30
    goes_on.set()
