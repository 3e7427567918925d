"""Several hosts, each a process of its own, against one: the same training, evaluation and random draws."""

import functools

import host_worker
import numpy as np
import pytest
from host_processes import run_hosts
from host_worker import EVALUATIONS, RECORDS, STEPS, awkward_state
from photos import write_records
from tiny import build_tiny_networks


@pytest.fixture(scope="module")
def one():
    """One host with eight devices, this process; its scenarios run when asked for."""
    patch = pytest.MonkeyPatch()
    build_tiny_networks(patch)
    yield functools.cache(lambda scenario: host_worker.SCENARIOS[scenario](None))
    patch.undo()


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four hosts with two devices each."""
    folder = tmp_path_factory.mktemp("four")
    write_records(folder / "records", "train", RECORDS)
    write_records(folder / "records", "validation", [2, 1])
    scenarios = ["train_digits", "first_batches", "records", "masks", "tiles"]
    return run_hosts(folder, scenarios, hosts=4, devices=2)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two hosts with four devices each."""
    scenarios = ["evaluations", "confusions", "sharing", "cached_programs"]
    return run_hosts(tmp_path_factory.mktemp("two"), scenarios, hosts=2, devices=4)


PARTS = (".params", ".batch_stats", ".opt_state", ".ema", "losses")


def difference(found, wanted, part):
    """Returns the norm of the difference between all tensors of a part, relative to their own."""
    names = [name for name in wanted if name.startswith(part)]
    ours, theirs = (
        np.concatenate([np.ravel(np.float64(side[name])) for name in names]) for side in (found, wanted)
    )
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def test_four_hosts_train_as_one_does(four, one):
    found, wanted = four["train_digits"], one("train_digits")
    for name in wanted:  # on every host the same bits
        assert len({np.asarray(host[name]).tobytes() for host in found}) == 1, name
    assert int(found[0][".step"]) == STEPS
    # Between hosts sums are taken in another order: the last bits differ.
    for part in PARTS:
        assert difference(found[0], wanted, part) < 1e-6, part
    for name in ("top1", "top5", "images", "steps"):
        assert found[0][f"eval.{name}"] == wanted[f"eval.{name}"]
    assert found[0]["eval.images"] == 360 and wanted["eval.top1"] > 0.15
    np.testing.assert_allclose(found[0]["eval.loss"], wanted["eval.loss"], rtol=1e-5)


def test_the_step_tells_every_host_how_late_each_was_and_one_host_nothing(four, one):
    for host in four["train_digits"]:
        np.testing.assert_allclose(host["pace"], [[0, 0], [0.1, 0.05], [0.2, 0.1], [0.3, 0.15]])
    assert one("train_digits")["pace"].size == 0


def test_together_the_hosts_have_the_images_of_one_augmented_alike(four, one):
    wanted = one("first_batches")
    for name in ("image", "label"):
        together = np.concatenate([host[name] for host in four["first_batches"]], axis=1)
        np.testing.assert_array_equal(together, wanted[name])


def test_what_is_dropped_differs_between_replicas_hosts_and_steps_and_is_that_of_one_host(four, one):
    drawn = one("masks")["drawn"]  # (steps, replicas, images, features and, last, the block)
    assert drawn.shape[:3] == (2, 8, 4) and set(np.unique(drawn)) == {0.0, 1.0}
    for host in four["masks"]:
        np.testing.assert_array_equal(host["drawn"], drawn)
    features, blocks = drawn[..., :-1], drawn[..., -1]
    assert len({mask.tobytes() for mask in features.reshape(2 * 8 * 4, -1)}) == 64
    assert len({mask.tobytes() for mask in blocks.reshape(16, 4)}) > 6  # of 16 values
    assert 0.4 < features.mean() < 0.6 and 0.3 < blocks.mean() < 0.7


def test_records_in_fewer_files_than_hosts_come_once_an_epoch(four):
    count = sum(RECORDS)
    stream = np.concatenate([host["train"] for host in four["records"]], axis=1).ravel()
    epochs = stream[: len(stream) // count * count].reshape(-1, count)
    assert all(set(epoch) == set(range(count)) for epoch in epochs)
    assert len(epochs) > 3 and len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert len({host["mask"].shape for host in four["records"]}) == 1  # as many batches on every host
    counted = [label for host in four["records"] for label in host["label"][host["mask"] == 1]]
    assert sorted(counted) == [0, 1, 2]


def by_place(hosts, name):
    """Returns (first row in the global array, host, rows) of all shards, in the order of the array."""
    found = [
        (int(key.rpartition(".")[2]), index, value)
        for index, host in enumerate(hosts)
        for key, value in host.items()
        if key.rpartition(".")[0] == name
    ]
    return sorted(found, key=lambda shard: shard[0])


def test_hosts_that_share_bn_groups_keep_their_own_images_and_masks(four, one):
    hosts = four["tiles"]
    owners = np.ravel(hosts[0]["hosts"]).tolist()
    assert owners == [0, 1, 2, 3, 0, 1, 2, 3]  # by mesh row: groups of two hosts, whose devices take turns
    batches = [("mine", "image")] + [
        (f"eval{number}.mine.{name}", f"eval{number}.{name}")
        for number in range(6)
        for name in ("image", "label", "mask")
    ]
    for mine, placed in batches:
        shards = by_place(hosts, placed)
        rows = len(shards[0][2])
        assert [(start, host) for start, host, _ in shards] == [(i * rows, o) for i, o in enumerate(owners)]
        for index, host in enumerate(hosts):
            kept = np.concatenate([value for _, owner, value in shards if owner == index])
            np.testing.assert_array_equal(kept, host[mine])
    together = np.concatenate([value for *_, value in by_place(hosts, "image")])
    np.testing.assert_array_equal(together, one("first_step")["image"])  # each in its place of the step


def test_hosts_that_share_bn_groups_count_every_image_once(four, one):
    labels, wanted = [], one("tiles")
    for number in range(6):
        _, _, images = zip(*by_place(four["tiles"], f"eval{number}.label"), strict=True)
        _, _, masks = zip(*by_place(four["tiles"], f"eval{number}.mask"), strict=True)
        labels.extend(np.concatenate(images)[np.concatenate(masks) == 1])
    assert len(labels) == 360
    assert sorted(labels) == sorted(
        label
        for number in range(6)
        for label, mask in zip(
            wanted[f"eval{number}.mine.label"], wanted[f"eval{number}.mine.mask"], strict=True
        )
        if mask
    )
    for host in four["tiles"]:
        for name in ("top1", "top5", "images", "steps"):
            assert host[f"eval.{name}"] == wanted[f"eval.{name}"]


def test_bn_statistics_are_those_of_the_images_on_the_devices_of_the_group(four):
    hosts = four["tiles"]
    images = [rows for _, _, rows in by_place(hosts, "image")]
    moments = [rows for _, _, rows in by_place(hosts, "moments")]
    for group in range(4):
        together = np.concatenate(images[2 * group : 2 * group + 2]).astype(np.float64).reshape(-1, 3)
        for mean, variance in np.concatenate(moments[2 * group : 2 * group + 2]):
            np.testing.assert_allclose(mean, together.mean(0), rtol=1e-5)
            np.testing.assert_allclose(variance, together.var(0), rtol=1e-4)
    assert len({rows.tobytes() for rows in moments}) == 4


@pytest.mark.parametrize("images", EVALUATIONS)
def test_two_hosts_count_what_one_counts(two, one, images):
    wanted = one("evaluations")
    assert wanted[f"{images}.eval.images"] == images
    for host in two["evaluations"]:
        for name in ("top1", "top5", "images", "steps"):
            assert host[f"{images}.eval.{name}"] == wanted[f"{images}.eval.{name}"]
        np.testing.assert_allclose(host[f"{images}.eval.loss"], wanted[f"{images}.eval.loss"], rtol=1e-5)


def test_the_state_of_the_first_host_comes_to_the_others_bit_for_bit(two, one):
    for host in [*two["sharing"], one("sharing")]:
        for name, leaf in awkward_state().items():
            assert host[name].tobytes() == leaf.tobytes(), name
        np.testing.assert_array_equal(host["int32 + 1"], awkward_state()["int32"] + np.array(1, np.int32))


def test_compiled_programs_are_kept_by_the_first_host_alone(two):
    first, second = two["cached_programs"]
    assert len(first["files"]) == 1 and not second["files"].size
    assert first["exists"] and not second["exists"]


def test_host_0_hears_what_the_images_of_all_hosts_are_taken_for(two, one):
    first, second = two["confusions"]
    wanted = one("confusions")["pairs"]
    assert first["pairs"].tolist() == wanted and sum(number for *_, number in wanted) == 360
    assert second["pairs"].size == 0
    assert not np.array_equal(first["samples"], second["samples"])  # each has its own
    np.testing.assert_allclose(first["bins"], one("confusions")["bins"], rtol=1e-6)
    assert first["bins"][:, 0].sum() == 360 and not second["bins"].size
