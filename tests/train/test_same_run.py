"""What may change between two starts of one run, and what ends the second one with a remedy."""

import json
import os

import pytest
from recipes import load, phased_digits

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.plan import OF_THE_MACHINE, resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.train import same_run
from efficientnet_pod.train.same_run import Claim
from efficientnet_pod.workdir.workdir import Workdir


class Starts:
    """A workdir as the starts of a run claim it, one after the other."""

    def __init__(self, folder):
        self._workdir = Workdir(folder)
        self.path, self.checkpoints = self._workdir.path, self._workdir.checkpoints

    def claim(self, config):
        self._claim = Claim(self._workdir, config)

    def accept(self, plan, data):
        return self._claim.accept(plan, data)


# The config


def changed(config, field, value):
    *tables, name = field.split(".")
    copy = json.loads(json.dumps(config))
    table = copy
    for field in tables:
        table = table[field]
    table[name] = value
    return copy


@pytest.fixture
def claimed(tmp_path):
    """A workdir of the digits."""
    starts = Starts(tmp_path / "run")
    starts.claim(load("digits.py"))
    (starts.path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n')
    return starts


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("global_batch", 512, "config.global_batch was 128, is 512"),
        ("seed", False, "config.seed was 0, is False"),  # equal in Python
        ("eval_raw", 0, "config.eval_raw was False, is 0"),
        ("seed", "0", "config.seed was 0, is '0'"),
        ("data.policy", None, "config.data.policy was 'none', is None"),
        ("optimizer.lars.momentum", 0.8, "config.optimizer.lars.momentum was 0.9, is 0.8"),
        ("phases", {"a": {"from_epoch": 0.0}}, r"config.phases.a.from_epoch was absent, is 0.0"),
    ],
)
def test_a_field_that_differs_is_refused(claimed, field, value, shown):
    before = (claimed.path / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"belongs to another config: {shown}; choose another --workdir or"):
        claimed.claim(changed(load("digits.py"), field, value))
    assert (claimed.path / "config.json").read_bytes() == before


def test_five_fields_are_shown_and_the_others_counted(claimed):
    config = load("digits.py")
    for field in (
        "seed",
        "global_batch",
        "epochs",
        "ema_decay",
        "eval_epochs",
        "label_smoothing",
        "eval_raw",
    ):
        config = changed(config, field, 99)
    with pytest.raises(UserError, match=r"(config\.\w+ was [\w.]+, is 99(, | )){5}and 2 more; ") as caught:
        claimed.claim(config)
    assert "\n" not in str(caught.value)


def test_a_field_that_is_gone_or_new_is_refused(claimed):
    config = load("digits.py")
    del config["ema_decay"]
    with pytest.raises(UserError, match=r"config\.ema_decay was 0\.9, is absent"):
        claimed.claim(config)
    with pytest.raises(UserError, match=r"made by another version, whose recipes have no config\.new_field"):
        claimed.claim(load("digits.py") | {"new_field": 1})


def test_one_and_one_point_zero_are_the_same_number(claimed):
    claimed.claim(changed(load("digits.py"), "epochs", 28))
    claimed.claim(changed(load("digits.py"), "seed", 0.0))


def test_a_config_is_written_when_it_is_new_or_has_changed(claimed):
    file = claimed.path / "config.json"
    os.utime(file, ns=(1, 1))
    claimed.claim(load("digits.py"))
    claimed.accept(*start(load("digits.py")))
    assert os.stat(file).st_mtime_ns == 1
    claimed.claim(changed(load("digits.py"), "log_steps", 3))
    assert os.stat(file).st_mtime_ns == 1  # the start may still be refused
    claimed.accept(*start(load("digits.py")))
    assert json.loads(file.read_text())["log_steps"] == 3


@pytest.mark.parametrize("field", sorted(same_run.FREE_FIELDS | same_run.RESOLVED_FIELDS))
def test_fields_that_may_change_are_fields_of_a_config(claimed, field):
    value = load("digits.py")
    for name in field.split("."):
        value = value[name]
    claimed.claim(changed(load("digits.py"), field, "other"))


@pytest.mark.parametrize("contents", ["", '{"seed": 0', "[]", "\xff"])
def test_a_config_that_cannot_be_read_is_refused_and_kept(claimed, contents):
    (claimed.path / "config.json").write_bytes(contents.encode("latin-1"))
    with pytest.raises(UserError, match=r"^config.json in '.*' is damaged: .*; restore it or choose another"):
        claimed.claim(load("digits.py"))
    assert (claimed.path / "config.json").read_bytes() == contents.encode("latin-1")


@pytest.mark.parametrize("name", ["config.json", "plan.json", "data.json"])
def test_checkpoints_of_who_knows_what_are_refused(claimed, name):
    claimed.accept(*start(load("digits.py")))
    (claimed.checkpoints / "12").mkdir(parents=True)
    (claimed.path / name).unlink()
    with pytest.raises(UserError, match=rf"has checkpoints and no {name}, .*restore it or choose another"):
        claimed.claim(load("digits.py"))
        claimed.accept(*start(load("digits.py")))
    assert not (claimed.path / name).exists()


# Plan and images


def start(config, replicas=8, *, hosts=1, dtype="float32", kind="cpu", **data):
    """Returns the plan and the data of a start."""
    data = {"num_train": 1437, "num_eval": 360, "class_names": tuple("0123456789"), "fingerprint": ""} | data
    plan = resolve(
        read_recipe(config),
        num_train=data["num_train"],
        num_eval=data["num_eval"],
        num_classes=len(data["class_names"]),
        num_devices=replicas,
        num_hosts=hosts,
        default_dtype=dtype,
    )
    return plan.as_dict() | {"device_kind": kind}, {"name": config["data"]["name"], **data}


@pytest.fixture
def begun(claimed):
    """A workdir of the digits, on eight replicas, four of which normalise together: BN batch 64."""
    assert claimed.accept(*start(load("digits.py"))) == []
    return claimed


def test_the_same_start_again_is_accepted(begun):
    plan, data = start(load("digits.py"))
    assert begun.accept(plan, data) == []
    assert json.loads((begun.path / "data.json").read_text())["class_names"] == list("0123456789")
    assert json.loads((begun.path / "plan.json").read_text())["bn_batch"] == 64


@pytest.mark.parametrize(
    ("replicas", "group", "remedy"),
    [
        (4, 4, r"\(4 replicas of 32\) on 4 replicas; set --config.bn_group_size=2"),
        (16, 4, r"\(4 replicas of 8\) on 16 replicas; set --config.bn_group_size=8"),
        (2, 2, r"\(2 replicas of 64\) on 2 replicas; set --config.bn_group_size=1"),
        (
            1,
            1,
            r"\(1 replica of 128\) on 1 replica; keep its replicas: --config.replicas=8 --config",
        ),
    ],
)
def test_another_bn_batch_is_refused_with_the_group_size_that_keeps_it(begun, replicas, group, remedy):
    with pytest.raises(
        UserError, match=r"BN batch of .* was 64 images \(4 replicas of 16\), would be .*" + remedy
    ):
        begun.accept(*start(changed(load("digits.py"), "bn_group_size", group), replicas))
    assert json.loads((begun.path / "plan.json").read_text())["num_replicas"] == 8


@pytest.mark.parametrize(("replicas", "group"), [(2, 1), (4, 2), (16, 8)])
def test_the_same_bn_batch_goes_on_with_other_replicas(begun, replicas, group):
    config = changed(load("digits.py"), "bn_group_size", group)
    begun.claim(config)
    (warning,) = begun.accept(*start(config, replicas))
    assert (
        f"the start before was on 8 replicas, this one is on {replicas} replicas: its dropout and stochastic"
        in warning
    )
    assert "of record files, which are shared out by replica, the order of the images may change" in warning
    assert json.loads((begun.path / "plan.json").read_text())["num_replicas"] == replicas
    assert json.loads((begun.path / "config.json").read_text())["bn_group_size"] == group


def test_the_bn_batch_of_each_phase_is_compared(claimed):
    plan, data = start(phased_digits())
    assert len(plan["phases"]) == 2
    claimed.accept(plan, data)
    plan["phases"][1]["bn_batch"] *= 2
    with pytest.raises(UserError, match="BN batch of the run"):
        claimed.accept(plan, data)


def test_other_hosts_and_devices_are_warned_of(begun):
    hosts, device = begun.accept(*start(load("digits.py"), hosts=2, kind="TPU v3"))
    assert hosts == (
        "the start before was on 1 host, this one is on 2 hosts: sums run in another order; all else is as "
        "it was"
    )
    assert "the start before was on cpu, this one is on TPU v3: sums run in another order" in device


def test_another_dtype_is_refused_with_the_field_that_keeps_it(begun):
    with pytest.raises(
        UserError, match="compute_dtype .* was float32, would be bfloat16 here; set --config.model.dt"
    ):
        begun.accept(*start(load("digits.py"), dtype="bfloat16"))
    kept = changed(load("digits.py"), "model.dtype", "float32")
    begun.claim(kept)
    begun.accept(*start(kept, dtype="bfloat16"))
    other = changed(kept, "data.link_dtype", "uint8")
    begun.claim(other)
    with pytest.raises(
        UserError, match="link_dtype .* was float32, would be uint8 here; set --config.data.link_d"
    ):
        begun.accept(*start(other, dtype="bfloat16"))


def test_every_field_of_a_plan_is_compared_or_known_to_be_of_the_machine(begun):
    plan, data = start(load("digits.py"))
    free = set()
    for name in plan.keys() - {"phases"}:
        try:
            same_run.require_same_plan(plan, plan | {name: 3.5}, begun.path)
            free.add(name)
        except UserError:
            continue
    assert free == OF_THE_MACHINE
    shifted = [plan["phases"][0] | {"first_image": 7}]
    with pytest.raises(
        UserError, match=r"had phases.all.first_image=0, would have 7; go on with the version"
    ):
        begun.accept(plan | {"phases": shifted}, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class_names": tuple("0123456798")}, "class 8 was '8', is '9'; give it the data it began with"),
        ({"class_names": tuple("012345678")}, "10 classes, now 9"),
        ({"class_names": tuple("a0123456789")}, "10 classes, now 11 and class 0 was '0', is 'a'"),
        ({"num_train": 1436}, "1,437 training images, now 1,436"),
        ({"num_eval": 361}, "360 evaluation images, now 361"),
        ({"name": "other"}, "config.data.name was 'digits', is 'other'"),
    ],
)
def test_other_images_are_refused(begun, data, message):
    plan, same = start(load("digits.py"))
    with pytest.raises(UserError, match=f"the images are not those of the run in '.*': {message}"):
        begun.accept(plan, same | data)
    assert json.loads((begun.path / "data.json").read_text())["num_train"] == 1437


def test_data_may_move_as_long_as_its_fingerprint_stays(claimed):
    config = changed(load("digits.py"), "data.name", "folder:/old")
    claimed.claim(load("digits.py"))
    claimed.accept(*start(config, fingerprint="ab"))
    moved = changed(config, "data.name", "folder:/new")
    claimed.claim(moved)
    assert claimed.accept(*start(moved, fingerprint="ab")) == []
    with pytest.raises(UserError, match="the names of the files or the numbers of their records differ"):
        claimed.accept(*start(moved, fingerprint="cd"))
    with pytest.raises(UserError, match="config.data.name was 'folder:/new', is 'folder:/old'"):
        claimed.accept(*start(config, fingerprint=""))


def test_a_plan_of_another_version_is_refused(begun):
    (begun.path / "data.json").write_text('{"name": "digits"}')
    with pytest.raises(UserError, match="data.json in '.*' was written by another version; choose another"):
        begun.accept(*start(load("digits.py")))


# A run that has done nothing yet


def other_config(config):
    return changed(config, "seed", 1), {}


def fewer_images(config):
    return config, {"num_train": 1436}


def another_batch(config):
    return changed(config, "global_batch", 64), {}


@pytest.mark.parametrize("change", [other_config, fewer_images, another_batch])
@pytest.mark.parametrize("kept", ["", "a row", "a checkpoint", "a damaged checkpoint"])
def test_a_run_that_left_nothing_is_begun_again(begun, change, kept):
    (begun.path / "metrics.jsonl").write_text("")
    (begun.path / "journal.jsonl").write_text('{"kind": "failed"}\n')
    (begun.path / "programs").mkdir()
    (begun.path / "mine.txt").write_text("not of the run")
    if kept == "a row":
        (begun.path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n')
    elif kept:
        (begun.checkpoints / ("3" if kept == "a checkpoint" else "damaged-3-20261128T190000Z")).mkdir(
            parents=True
        )
    before = {path.name: path.read_bytes() for path in begun.path.iterdir() if path.is_file()}
    config, data = change(load("digits.py"))
    if kept:
        with pytest.raises(UserError, match="choose another --workdir"):
            begun.claim(config)
            begun.accept(*start(config, **data))
        assert before == {path.name: path.read_bytes() for path in begun.path.iterdir() if path.is_file()}
        return
    begun.claim(config)
    (warning,) = begun.accept(*start(config, **data))
    (aside,) = begun.path.glob("set-aside-*")
    assert "left neither a checkpoint nor a row of metrics; this one begins anew" in warning
    assert warning.endswith(f"the other's records are in {aside.name}") and "\n" not in warning
    assert {path.name for path in aside.iterdir()} == before.keys() - {"mine.txt"} | {"programs"}
    assert all((aside / name).read_bytes() == old for name, old in before.items() if name != "mine.txt")
    assert json.loads((begun.path / "config.json").read_text())["seed"] == config["seed"]
    assert json.loads((begun.path / "data.json").read_text())["num_train"] == data.get("num_train", 1437)
    begun.claim(config)
    assert begun.accept(*start(config, **data)) == []  # and is a run like any other


def test_a_config_that_is_not_of_a_run_is_not_set_aside(tmp_path):
    tmp_path.joinpath("config.json").write_text('{"architecture": "tf_efficientnet_b0", "label_names": []}')
    with pytest.raises(UserError, match="choose another --workdir"):
        Starts(tmp_path).claim(load("digits.py"))
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_start_killed_while_it_set_records_aside_is_followed_by_one_that_does(begun, monkeypatch):
    (begun.path / "metrics.jsonl").write_text("")
    rename, config = type(begun.path).rename, changed(load("digits.py"), "seed", 1)

    def killed(path, target):
        if path.name == "data.json":
            raise KeyboardInterrupt
        rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(begun.path), "rename", killed)
        begun.claim(config)
    begun.claim(config)
    (warning,) = begun.accept(*start(config))
    assert "begins anew" in warning and len(list(begun.path.glob("set-aside-*"))) == 2
    assert json.loads((begun.path / "plan.json").read_text())["num_train"] == 1437
