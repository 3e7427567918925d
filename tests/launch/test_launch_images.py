"""Jobs whose workers would not find their images are refused; what cannot be looked up is said."""

import json
from types import SimpleNamespace

import pytest
from launch_jobs import ROOT, launch
from recipes import load

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.reading import read_recipe
from launch.images import look, render_line, unreachable
from launch.job.job import Job
from launch.workdir.storage import Bucket

JOB = Job("run1", "qr", "v3-1024", "gs://b/run1")
FOLDER = "gs://b/tfds/imagenet2012/5.1.0"


def prepared(train=1_281_167, held_out=50_000, *, folder=FOLDER, files=4, left_out=0, **info):
    """Returns the objects of a prepared data set in a bucket."""
    splits = {"train": train, "validation": held_out}
    lengths = {name: [count // files] * (files - 1) + [count - count // files * (files - 1)]
               for name, count in splits.items()}  # fmt: skip
    objects = {
        f"{folder}/imagenet2012-{name}.tfrecord-{number:05}-of-{files:05}": b""
        for name in splits
        for number in range(files - (left_out if name == "train" else 0))
    }
    table = {
        "splits": [{"name": name, "shardLengths": [str(n) for n in part]} for name, part in lengths.items()]
    }
    return objects | {
        f"{folder}/dataset_info.json": json.dumps({"fileFormat": "tfrecord"} | table | info).encode()
    }


class Client:
    """Google's client of a bucket ``b`` with these objects, by their paths."""

    def __init__(self, objects):
        self.objects = {path.removeprefix("gs://b/"): contents for path, contents in objects.items()}

    def bucket(self, name):
        def blob(path):
            return SimpleNamespace(
                exists=lambda timeout: path in self.objects,
                download_as_bytes=lambda timeout: self.objects[path],
            )

        return SimpleNamespace(exists=lambda timeout: name == "b", blob=blob)

    def list_blobs(self, bucket, prefix, delimiter, timeout):
        behind = [path.removeprefix(prefix) for path in self.objects if path.startswith(prefix)]

        class Blobs(list):
            prefixes = {prefix + path.partition("/")[0] + "/" for path in behind if "/" in path}

        return Blobs(SimpleNamespace(name=prefix + path) for path in behind if "/" not in path)


def recipe(name="imagenet2012", data_dir="gs://b/tfds", **data):
    config = load("supercomputer.py")
    config["data"] |= {"name": name, "data_dir": data_dir} | data
    return read_recipe(config)


def seen(objects, of=None, job=JOB, bucket=True):
    return look(job, of or recipe(), bucket=bucket, storage_of=lambda path: Bucket(Client(objects)))


def test_prepared_images_of_the_right_number_are_found():
    line = seen(prepared())
    assert line == (
        f"images: 1,281,167 of train, 50,000 of validation are prepared in '{FOLDER}'; whether the workers "
        "may read it cannot be told from here"
    )
    older = prepared(1, 1, folder=FOLDER.replace("5.1.0", "5.0.0"))
    assert seen(older | prepared()) == line  # the newest counts
    numbers = prepared(7, 3, folder="gs://b/photos/mine")
    assert "7 of train, 3 of validation" in seen(numbers, recipe("prepared:gs://b/photos/mine", ""))
    assert "whole" not in seen(prepared(), recipe(train_split="train[:99%]", eval_split="train[99%:]"))
    records = {f"gs://b/r/{split}-{n:05}-of-00002": b"" for split in ("train", "validation") for n in (0, 1)}
    assert "all record files are in 'gs://b/r'" in seen(records, recipe("tfrecord:gs://b/r", ""))
    assert "come with the code" in seen({}, recipe("digits", ""))


@pytest.mark.parametrize(
    ("objects", "of", "words"),
    [
        ({}, {"data_dir": "gs://c/tfds"}, "there is no bucket gs://c; correct --config.data.data_dir"),
        ({}, {}, "'imagenet2012' is not prepared in 'gs://b/tfds': there is no folder imagenet2012/VERSION; "
                 "run `tfds build imagenet2012 --data_dir=gs://b/tfds` once"),
        (prepared(), {"name": "imagenet2012:5.0.0"}, "there is no folder imagenet2012/5.0.0"),
        ({f"{FOLDER}/x": b""}, {}, "has no dataset_info.json: it is not prepared to its end"),
        (prepared(left_out=1), {}, "has 3 of 4 files of split 'train'; copy all there"),
        (prepared(train=1000), {}, "has 1,000 images of split 'train', and imagenet2012 has 1,281,167"),
        (prepared(), {"eval_split": "test"}, "has no split 'test', only train, validation; name one"),
        (prepared(fileFormat="array_record"), {}, "holds ArrayRecord files, which workers cannot read"),
        (prepared(splits=3), {}, "dataset_info.json' is damaged"),
        ({"gs://b/r/train-00000-of-00002": b""}, {"name": "tfrecord:gs://b/r"}, "has 1 of 2 files of split"),
        ({}, {"name": "tfrecord:gs://b/r"}, "has 0 of 0 files of split 'train'"),
        ({"gs://b/f": b""}, {"name": "folder:gs://b/f"}, "has no class folders"),
    ],
)  # fmt: skip
def test_images_that_are_not_there_whole_are_refused(objects, of, words):
    with pytest.raises(UserError) as refused:
        seen(objects, recipe(**of))
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("at", ["bucket", "list_blobs"])
def test_what_cannot_be_looked_up_is_said(monkeypatch, at):
    def fails(*_, **__):
        raise RuntimeError("403 no\naccess")

    monkeypatch.setattr(Client, at, fails)
    where = "" if at == "bucket" else "'gs://b/tfds/imagenet2012' cannot be listed: "
    assert seen({}) == f"images: nothing was looked up in 'gs://b/tfds': {where}403 no access"


@pytest.mark.parametrize(
    ("name", "data_dir", "words"),
    [
        ("imagenet2012", "", "would look for 'imagenet2012' in their own home folders, where nothing is; put "
                             "the images into a bucket: --config.data.data_dir=gs://BUCKET/FOLDER"),
        ("imagenet2012", "/data/tfds", "in '/data/tfds'"),
        ("folder:/data/photos", "", "--config.data.name=folder:gs://BUCKET/photos"),
        ("prepared:photos/", "", "--config.data.name=prepared:gs://BUCKET/photos"),
        ("tfrecord:/", "", "--config.data.name=tfrecord:gs://BUCKET/images"),
    ],
)  # fmt: skip
def test_fresh_machines_reach_a_bucket_only(name, data_dir, words):
    of = recipe(name, data_dir)
    assert words in unreachable(JOB, of.data)
    assert render_line(JOB, of, bucket=True).startswith("submit refuses this: the workers of --backend=qr")
    with pytest.raises(UserError, match="are fresh machines"):
        seen({}, of)


def test_variables_of_the_workers_count():
    job = Job("run1", "qr", "v3-1024", "gs://b/run1", env=(("TFDS_DATA_DIR", "gs://b/tfds"),))
    assert unreachable(job, recipe(data_dir="").data) is None
    assert "are prepared in" in seen(prepared(), recipe(data_dir=""), job=job)


def test_a_shared_path_is_opened_here(tmp_path):
    job = Job("run1", "slurm", "cuda:h100x16", "/shared/run1")
    with pytest.raises(UserError, match="is not prepared in"):
        seen({}, recipe(data_dir=str(tmp_path)), job=job, bucket=False)
    assert "/nowhere" in render_line(job, recipe(data_dir="/nowhere"), bucket=False)


def test_submit_refuses_before_anybody_is_asked_and_render_says_so(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("launch.submit.pack", lambda *_, **__: pytest.fail("it was too late"))
    words = ["--backend=qr", "--tpu=v3-1024", "--project=p", "--zone=z", "--workdir=gs://b/run1", "--"]
    words += ["--config=configs/supercomputer.py:b5,65536"]
    code, out, errors = launch(capsys, "submit", *words)
    assert (code, out) == (2, "") and errors.startswith(
        "launch: the workers of --backend=qr are fresh machines"
    )
    assert errors.count("\n") == 1
    code, out, _ = launch(capsys, "render", *words)
    assert code == 0 and "\n# images: submit refuses this: the workers of --backend=qr" in out
    assert "# not given, and needed by submit: --config.data.data_dir\n" in out
