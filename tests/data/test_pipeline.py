"""Order, host shares and padding: every image exactly once, wherever a run enters, on however many hosts."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from photos import mocked_tfds, prepare_numbered_photos, write_folder

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import eval_batches, train_batches
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.types import Indexed, Source
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing


def numbers(num_train: int, num_eval: int = 1) -> Source:
    """Returns a source of black 4x4 images, each labelled with its own number."""

    def fetch(index):
        label = tf.cast(index, tf.int32)
        return {"image": tf.zeros((4, 4, 3), tf.uint8), "label": label, "name": tf.strings.as_string(index)}

    names = tuple(map(str, range(max(num_train, num_eval))))
    return Source("numbers", names, Indexed(num_train, fetch), Indexed(num_eval, fetch))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = prepare_numbered_photos(tmp_path_factory.mktemp("tfds"))
    return open_source("numbered_photos", data_dir=str(root))


def train(source, *, global_batch=16, start_step=0, seed=0, host_index=0, host_count=1, **fields):
    preprocessing = Preprocessing(**({"image_size": 4, "augment": "shift"} | fields))
    share = HostShare(global_batch, start_step * global_batch, (host_index,), host_count)
    return train_batches(source, preprocessing, share, seed=seed)


def labels(dataset, batches):
    return np.array([batch["label"] for batch in itertools.islice(dataset.as_numpy_iterator(), batches)])


def assert_equal_batches(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


# Training, images fetched by number


def test_each_epoch_holds_each_image_once_in_an_order_of_its_own():
    stream = labels(train(numbers(101)), 60).ravel()[: 9 * 101].reshape(9, 101)
    for epoch in stream:
        assert sorted(epoch) == list(range(101))
    assert len({tuple(epoch) for epoch in stream}) == 9
    assert len({tuple(labels(train(numbers(101), seed=seed), 2).ravel()) for seed in range(5)}) == 5


@pytest.mark.parametrize("num_train", [1, 2, 5])
def test_data_sets_smaller_than_a_batch_fill_it_epoch_by_epoch(num_train):
    stream = labels(train(numbers(num_train)), 5).ravel()
    assert stream.reshape(-1, num_train).shape[0] == 80 // num_train
    assert (np.sort(stream.reshape(-1, num_train)) == np.arange(num_train)).all()


@pytest.mark.parametrize(("host_count", "start_step"), [(1, 5), (2, 0), (3, 23)])
def test_the_global_batches_are_the_same_for_any_hosts_and_any_start(host_count, start_step):
    source = numbers(101)
    single = labels(train(source, global_batch=24), 40)
    hosts = [
        labels(
            train(source, global_batch=24, start_step=start_step, host_index=h, host_count=host_count),
            40 - start_step,
        )
        for h in range(host_count)
    ]
    assert hosts[0].shape == (40 - start_step, 24 // host_count)
    np.testing.assert_array_equal(np.concatenate(hosts, axis=1), single[start_step:])


def test_images_and_augmentation_continue_where_a_run_resumes():
    source = open_source("digits")
    options = {"augment": "shift", "max_shift": 2, "image_size": 16, "global_batch": 500}
    whole = list(itertools.islice(train(source, **options).as_numpy_iterator(), 6))
    resumed = train(source, start_step=2, **options).as_numpy_iterator()
    assert_equal_batches(whole[2:], itertools.islice(resumed, 4))


def test_an_image_is_augmented_anew_in_each_epoch():
    def fetch(index):
        del index
        return {
            "image": tf.fill((4, 4, 3), tf.constant(255, tf.uint8)),
            "label": tf.constant(0),
            "name": tf.constant(""),
        }

    one = Source("one", ("a", "b"), Indexed(1, fetch), Indexed(1, fetch))
    images = next(train(one, max_shift=2, global_batch=40).as_numpy_iterator())["image"]
    assert 15 < len({image.tobytes() for image in images}) <= 25


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_the_first_thousand_images_do_not_depend_on_the_threads(policy, tmp_path):
    source = open_source(f"folder:{write_folder(tmp_path, {'cat': 12, 'dog': 9})}")
    options = {"augment": "inception_crop", "image_size": 32, "policy": policy, "cutout": 8, "dtype": "uint8"}
    streams = []
    for threads in (1, 7):
        pool = tf.data.Options()
        pool.threading.private_threadpool_size = threads
        dataset = train(source, global_batch=125, **options).dataset.with_options(pool)
        streams.append(list(itertools.islice(dataset.as_numpy_iterator(), 8)))
    assert_equal_batches(*streams)
    assert len({image.tobytes() for batch in streams[0] for image in batch["image"]}) > 990


# Training, records


@pytest.mark.parametrize("host_count", [1, 3])
def test_records_hold_each_image_once_an_epoch_in_an_order_of_its_own(records, host_count):
    hosts = [
        labels(train(records, global_batch=6, host_index=host, host_count=host_count), 60)
        for host in range(host_count)
    ]
    epochs = np.concatenate(hosts, axis=1).ravel()[: 3 * 103].reshape(3, 103)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(103))


@pytest.mark.parametrize("start_step", [3, 13])
def test_records_continue_where_a_run_resumes(records, start_step):
    options = {"augment": "shift", "max_shift": 3, "image_size": 8, "host_index": 1, "host_count": 2}
    whole = list(itertools.islice(train(records, **options).as_numpy_iterator(), start_step + 4))
    resumed = train(records, start_step=start_step, **options).as_numpy_iterator()
    assert_equal_batches(whole[start_step:], itertools.islice(resumed, 4))


def test_records_are_shuffled_by_the_seed(records):
    first = labels(train(records, seed=1), 5)
    np.testing.assert_array_equal(first, labels(train(records, seed=1), 5))
    assert not np.array_equal(first, labels(train(records, seed=2), 5))
    # TensorFlow takes seeds modulo 2^31 - 1: no epoch of a seed may be an epoch of another.
    epochs = {
        tuple(labels(train(records, seed=seed, global_batch=103), 4)[epoch])
        for seed in range(3)
        for epoch in range(4)
    }
    assert len(epochs) == 12


def test_records_do_not_depend_on_the_threads(records):
    streams = []
    for threads in (1, 7):
        pool = tf.data.Options()
        pool.threading.private_threadpool_size = threads
        dataset = train(records, augment="pad_crop_flip", max_shift=1).dataset.with_options(pool)
        streams.append(list(itertools.islice(dataset.as_numpy_iterator(), 14)))
    assert_equal_batches(*streams)


def test_records_in_another_folder_are_the_same_stream(tmp_path):
    batches = []
    for place in ("here", "there/deeper"):
        (tmp_path / place).mkdir(parents=True)
        root = prepare_numbered_photos(tmp_path / place)
        source = open_source("numbered_photos", data_dir=str(root))
        options = {"augment": "shift", "max_shift": 3, "image_size": 8}
        batches.append(list(itertools.islice(train(source, **options).as_numpy_iterator(), 2)))
    assert_equal_batches(*batches)


# Evaluation


def evaluate(source, *, global_batch, host_index=0, host_count=1, **fields):
    preprocessing = Preprocessing(**({"image_size": 4, "augment": "shift"} | fields))
    share = HostShare(global_batch, 0, (host_index,), host_count)
    return eval_batches(source, preprocessing, share)


@pytest.mark.parametrize(("host_count", "global_batch"), [(1, 128), (3, 24), (3, 4098)])
@pytest.mark.parametrize("kind", ["indexed", "records"])
def test_evaluation_counts_each_image_once_in_as_many_batches_on_every_host(
    host_count, global_batch, kind, records
):
    source = numbers(1, num_eval=1003) if kind == "indexed" else records
    counted = []
    for host in range(host_count):
        ours = evaluate(source, global_batch=global_batch, host_index=host, host_count=host_count)
        batches = list(ours.as_numpy_iterator())
        assert len(batches) == len(ours.dataset) == -(-source.num_eval // global_batch)
        for batch in batches:
            assert batch["image"].shape == (global_batch // host_count, 4, 4, 3)
            assert batch["label"].dtype == np.int32 and batch["mask"].dtype == np.float32
            assert set(batch["mask"]) <= {0.0, 1.0}
            assert not batch["image"][batch["mask"] == 0].any()
            counted.extend(batch["label"][batch["mask"] == 1])
    assert sorted(counted) == list(range(source.num_eval))


def test_a_host_without_images_gets_masked_batches(records):
    # 31 images, 40 hosts: the last nine have none, and the collectives need them all the same.
    for source in (records, numbers(1, num_eval=31)):
        masks = [
            [
                batch["mask"]
                for batch in evaluate(
                    source, global_batch=40, host_index=h, host_count=40
                ).as_numpy_iterator()
            ]
            for h in (0, 30, 31, 39)
        ]
        assert masks == [[1], [1], [0], [0]]


def test_evaluation_shows_the_images_as_stored():
    batch = next(evaluate(open_source("digits"), image_size=8, global_batch=360).as_numpy_iterator())
    stored = np.stack(
        [
            e["image"]
            for e in tf.data.Dataset.range(360).map(open_source("digits").eval.fetch).as_numpy_iterator()
        ]
    )
    np.testing.assert_allclose(batch["image"], stored, atol=1e-3)


# From files to batches


def test_mocked_imagenet_end_to_end(tmp_path):
    with mocked_tfds("imagenet2012", 5, tmp_path):
        source = open_source("imagenet2012")
        options = {"image_size": 64, "augment": "inception_crop", "dtype": "bfloat16"}
        batches = list(itertools.islice(train(source, global_batch=4, **options).as_numpy_iterator(), 3))
        evaluated = list(evaluate(source, global_batch=4, **options).as_numpy_iterator())
    for batch in batches + evaluated:
        assert batch["image"].shape == (4, 64, 64, 3) and batch["image"].dtype == ml_dtypes.bfloat16
        assert batch["label"].shape == (4,) and (0 <= batch["label"]).all() and (batch["label"] < 1000).all()
        assert np.isfinite(batch["image"].astype(np.float32)).all()
    assert [batch["mask"].tolist() for batch in evaluated] == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batches[0].keys() == {"image", "label"}


def test_a_folder_trains(tmp_path):
    source = open_source(
        f"folder:{write_folder(tmp_path, {'train/cat': 4, 'train/dog': 4, 'val/cat': 1})}", eval_split="val"
    )
    options = {"image_size": 32, "augment": "inception_crop", "global_batch": 8}
    batch = next(train(source, **options).as_numpy_iterator())
    assert batch["label"].sum() == 4 and batch["image"].dtype == np.float32 and batch["image"].std() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch": 16, "host_count": 3}, "global batch is 16; .* multiple of the 3 devices; use 18"),
        ({"global_batch": 0}, "global batch is 0; .* use 1"),
    ],
)
def test_impossible_requests_are_refused(options, message):
    for batches in (train, evaluate):
        with pytest.raises(UserError, match=message):
            batches(numbers(5, 5), **options)


def test_tensorflow_leaves_the_accelerators_alone():
    assert tf.config.get_visible_devices("GPU") == []
