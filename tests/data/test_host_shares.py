"""The global batches, put together from the rows of hosts whose devices are anywhere in the mesh."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from photos import write_records
from tori import tpu_slice

from efficientnet_pod.data import order
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.in_memory import InMemory
from efficientnet_pod.data.pipeline import eval_batches, train_batches
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.types import Indexed, Records, Source
from efficientnet_pod.pod.topology import bn_device_order
from efficientnet_pod.recipe.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(image_size=8, augment="shift", max_shift=2, dtype="uint8")
RECORDS, REPLICAS, STEP_BATCH, SEED = (
    803,
    8,
    16,
    5,
)  # lanes of 100 or 101 records, two images of each in a step
INTERLEAVED, NEIGHBOURS = ((0, 2), (1, 3)), ((0, 1), (2, 3))


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Records:
    """Records in files of several lengths, labelled with their numbers."""
    folder = tmp_path_factory.mktemp("records") / "all"
    write_records(folder, "train", [230, 0, 41, 9, 263, 260])
    write_records(folder, "validation", [1])
    train = open_source(f"tfrecord:{folder}").train
    assert isinstance(train, Records) and train.num_examples == RECORDS
    return train


def numbers(num_train, num_eval=1):
    """Returns a source of images that are fetched by number and labelled with it."""

    def fetch(index):
        label = tf.cast(index, tf.int32)
        return {"image": tf.zeros((8, 8, 3), tf.uint8), "label": label, "name": tf.strings.as_string(index)}

    names = tuple(map(str, range(max(num_train, num_eval))))
    return Source("numbers", names, Indexed(num_train, fetch), Indexed(num_eval, fetch))


def in_mesh_order(hosts, rows):
    """Returns a global array as JAX puts it together: a host's n-th run of rows is of its n-th device."""
    devices = {
        device: run
        for owned, own in zip(hosts, rows, strict=True)
        for device, run in zip(owned, np.split(own, len(owned)), strict=True)
    }
    return np.concatenate([devices[device] for device in sorted(devices)])


def global_batches(hosts, stream_of, count):
    """Returns the first global batches of the hosts' streams."""
    num_devices = sum(map(len, hosts))
    streams = [itertools.islice(stream_of(devices, num_devices), count) for devices in hosts]
    return [
        {name: in_mesh_order(hosts, [part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*streams, strict=True)
    ]


def assert_equal(batches, expected):
    for ours, theirs in zip(batches, expected, strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


# Places


def test_a_place_is_that_of_the_image_in_the_order_of_the_mesh():
    share = HostShare(12, 100, (1, 3, 4), 6).later(1)  # two images a device
    expected = [114, 115, 118, 119, 120, 121, 126, 127, 130, 131, 132, 133]
    assert share.host_batch == 6
    assert [share.place(turn) for turn in range(12)] == expected
    np.testing.assert_array_equal(share.place(np.arange(12)), expected)
    np.testing.assert_array_equal(share.place(tf.range(12, dtype=tf.int64), tf.gather), expected)
    assert [share.images_of_first(n) for n in (0, 3, 7, 9, 12)] == [0, 1, 3, 5, 6]


@pytest.mark.parametrize("hosts", [INTERLEAVED, NEIGHBOURS])
@pytest.mark.parametrize("kind", ["by number", "in memory", "records"])
def test_training_batches_are_those_of_one_host(kind, hosts, records):
    def stream_of(devices, num_devices):
        share = HostShare(32, 64, devices, num_devices, num_replicas=4)
        if kind == "in memory":
            return InMemory(open_source("digits"), PREPROCESSING, share, seed=3).as_numpy_iterator()
        source = numbers(101)
        if kind == "records":
            source = Source("records", tuple(map(str, range(1000))), records, records)
        return train_batches(source, PREPROCESSING, share, seed=3).as_numpy_iterator()

    expected = list(itertools.islice(stream_of((0, 1, 2, 3), 4), 7))
    assert_equal(global_batches(hosts, stream_of, 7), expected)


@pytest.mark.parametrize("num_eval", [29, 32, 38, 3])
@pytest.mark.parametrize("shapes", [None, ((8, 16, 1), (8, 8, 1), (16, 8, 3))])
@pytest.mark.parametrize("hosts", [INTERLEAVED, NEIGHBOURS])
def test_evaluation_batches_are_those_of_one_host(hosts, shapes, num_eval):
    source = numbers(1, num_eval)
    sorted_by = np.random.default_rng(0).permutation(num_eval) if shapes else None

    def stream_of(devices, num_devices):
        share = HostShare(8, 0, devices, num_devices)
        batches = eval_batches(source, PREPROCESSING, share, shapes=shapes, order=sorted_by)
        return batches.as_numpy_iterator()

    batches = global_batches(hosts, stream_of, None)
    assert_equal(batches, stream_of((0, 1, 2, 3), 4))
    label, mask = (np.concatenate([batch[name] for batch in batches]) for name in ("label", "mask"))
    expected = np.arange(num_eval) if sorted_by is None else sorted_by
    np.testing.assert_array_equal(label[:num_eval], expected)
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < num_eval)


@pytest.mark.parametrize("hosts", [INTERLEAVED, NEIGHBOURS])
def test_record_files_are_evaluated_once_over_all_hosts(hosts, records):
    source = Source("records", tuple(map(str, range(1000))), records, records)
    seen = []
    for devices in hosts:
        batches = list(eval_batches(source, PREPROCESSING, HostShare(16, 0, devices, 4)).as_numpy_iterator())
        assert len(batches) == 51
        seen += [label for batch in batches for label in batch["label"][batch["mask"] > 0]]
    assert sorted(seen) == list(range(RECORDS))


def test_on_a_torus_a_replica_has_the_images_of_its_place_in_the_mesh():
    """64 cores, groups of 32: tiles of 4 x 4 chips, whose rows are halves of two hosts."""
    mesh = bn_device_order(tpu_slice(8, 4, cores=2), 32)
    hosts = [tuple(n for n, device in enumerate(mesh) if device.process_index == host) for host in range(8)]
    assert hosts[0] == (0, 1, 2, 3, 8, 9, 10, 11)

    def stream_of(devices, num_devices):
        share = HostShare(128, 0, devices, num_devices, num_replicas=64)
        return train_batches(numbers(1000), PREPROCESSING, share, seed=3).as_numpy_iterator()

    expected = list(itertools.islice(stream_of(tuple(range(64)), 64), 2))
    assert_equal(global_batches(hosts, stream_of, 2), expected)


# Lanes of record files


def read(dataset):
    """Returns the elements; without the tuner, whose thread sleeps for up to a minute when a stream ends."""
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    return list(dataset.with_options(untuned).as_numpy_iterator())


@functools.cache
def reference(files, lanes, steps):
    """Returns the names of all images of the steps, put together in Python but for the two shuffles."""
    stored = [f"{file.path}#{n}" for file in files for n in range(file.start, file.stop)]
    streams = [_lane(part, n) for n, part in enumerate(np.array_split(stored, lanes))]
    return [next(lane) for _ in range(steps) for lane in streams for _ in range(STEP_BATCH // lanes)]


def _lane(names, number):
    files = [list(group) for _, group in itertools.groupby(names, lambda name: name.partition("#")[0])]
    for epoch in itertools.count():
        pair = tf.constant([SEED, epoch + (number << 32)], tf.int64)
        drawn = tf.random.stateless_uniform([], pair, maxval=2**31 - 1, dtype=tf.int64)
        turns = read(tf.data.Dataset.range(len(files)).shuffle(len(files), drawn, False))
        rounds = itertools.zip_longest(*(files[turn] for turn in turns))
        in_turn = [name for names in rounds for name in names if name]
        mixed = read(tf.data.Dataset.from_tensor_slices(in_turn).shuffle(512, drawn, False))
        yield from (name.decode() for name in mixed)


def names_of(records, share, batches):
    """Returns the names of the images of a host's batches, (batches, host_batch)."""
    examples = order.shuffled(records, share, SEED).map(lambda example, key: (example["name"], key))
    taken = read(examples.take(batches * share.host_batch))
    assert len({tuple(key) for _, key in taken}) == len({(name, key[0]) for name, key in taken})
    names = [name.decode().partition(" ")[0] for name, _ in taken]
    return np.array(names).reshape(batches, share.host_batch)


ARRANGEMENTS = [
    (micro_batches, hosts)
    for micro_batches in (1, 2, 4)
    for hosts in (1, 2, 4)
    if hosts <= REPLICAS // micro_batches
]


@pytest.mark.parametrize(("micro_batches", "hosts"), ARRANGEMENTS)
@pytest.mark.parametrize(("first_step", "apart"), [(0, False), (33, True)])
def test_the_steps_of_record_files_do_not_depend_on_hosts_and_micro_batches(
    records, micro_batches, hosts, first_step, apart
):
    steps, num_devices = 110, REPLICAS // micro_batches  # an epoch is 50.2 steps
    expected = reference(records.files, REPLICAS, steps)[first_step * STEP_BATCH :]
    batches = (steps - first_step) * micro_batches
    numbers = np.arange(num_devices).reshape(hosts, -1, order="F" if apart else "C")
    owned = [tuple(row) for row in numbers.tolist()]
    batch, first_image = STEP_BATCH // micro_batches, first_step * STEP_BATCH
    shares = [HostShare(batch, first_image, own, num_devices, micro_batches, REPLICAS) for own in owned]
    rows = [names_of(records, share, batches) for share in shares]
    names = [in_mesh_order(owned, parts) for parts in zip(*rows, strict=True)]
    np.testing.assert_array_equal(np.concatenate(names), expected)


@pytest.mark.parametrize("batch", [1, 6, 203])
def test_a_stream_is_entered_in_the_middle_of_a_step(records, batch):
    share = HostShare(STEP_BATCH // 4, 16, (1,), 2, 4, REPLICAS)
    whole = names_of(records, share, batch + 9)
    np.testing.assert_array_equal(names_of(records, share.later(batch), 9), whole[batch:])


@pytest.mark.parametrize(
    ("replicas", "records", "lanes"),
    [
        (1, 10**6, 1),
        (8, 10**6, 8),
        (8, 799, 4),
        (8, 103, 1),
        (6, 5, 1),
        (256, 10**6, 256),
        (1024, 10**6, 256),
        (1028, 10**6, 4),
        (2048, 10**6, 256),
    ],
)
def test_lanes_follow_from_the_replicas_and_the_images(replicas, records, lanes):
    for devices in {1, replicas // 2 or 1, replicas}:
        share = HostShare(2 * devices, 0, (0,), devices, replicas // devices, replicas)
        assert share.lanes(records).count == lanes


def test_a_lane_of_several_hosts_is_read_by_each():
    """Three replicas of twelve on each of four devices, one after the other: a lane has three replicas."""
    lanes = [HostShare(4, 0, (n,), 4, 3, 12).lanes(400) for n in range(4)]
    assert {(each.count, each.width) for each in lanes} == {(4, 3)}
    assert [each.numbers for each in lanes] == [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]
    assert [each.own.nonzero()[0].tolist() for each in lanes] == [[0, 4, 8], [1, 5, 6], [2, 3, 7], [0, 4, 8]]


def test_each_record_comes_once_in_each_epoch_of_its_lane(records):
    names = names_of(records, HostShare(STEP_BATCH, 0, (0,), 1, 1, REPLICAS), 110)
    for lane, lane_names in enumerate(np.split(names, REPLICAS, axis=1)):
        length = records.share(lane, REPLICAS).num_examples
        first, second = lane_names.ravel()[: 2 * length].reshape(2, length).tolist()
        assert len(set(first)) == length and sorted(first) == sorted(second) and first != second


def test_lanes_of_equal_files_are_shuffled_apart(records):
    equal = Records(tuple(records.files[:1]) * 4, records.parse)
    names = names_of(equal, HostShare(8, 0, (0,), 1, 1, 4), 20)
    lanes = [tuple(lane.ravel()) for lane in np.split(names, 4, axis=1)]
    assert len(set(lanes)) == 4
