"""Whether the workers of a job can reach the images of its recipe: looked up before a machine is paid for."""

import json
import re
from collections.abc import Callable
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.recipe import HUB, DataSettings, Recipe, is_path
from efficientnet_pod.run.run import PUBLISHED_NUMBERS, ImageNumbers, open_images
from launch.job.job import Job
from launch.workdir.storage import Storage, is_bucket, split

TFDS_VARIABLE = "TFDS_DATA_DIR"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_INFO = "dataset_info.json"
_UNASKED = "whether the workers may read it cannot be told from here"


def location_of(job: Job, data: DataSettings) -> str | None:
    """Returns where workers look for the images: a path, "" for each worker's own home; None: no folder."""
    if data.name == "digits" or data.name.startswith(HUB):
        return None
    if is_path(data.name):
        return data.name.partition(":")[2]
    return data.data_dir or dict(job.env).get(TFDS_VARIABLE, "")


def unreachable(job: Job, data: DataSettings) -> str | None:
    """Returns why workers that reach nothing but a bucket cannot have the images; None: they may."""
    place = location_of(job, data)
    if place is None or is_bucket(place):
        return None
    kind, _, path = data.name.partition(":")
    remedy = f"--config.data.name={kind}:gs://BUCKET/{path.strip('/').rpartition('/')[2] or 'images'}"
    if not is_path(data.name):
        remedy = "--config.data.data_dir=gs://BUCKET/FOLDER, where `tfds build` has prepared it"
    where = f"in '{place}'" if place else "in their own home folders"
    return (
        f"the workers of --backend={job.backend} are fresh machines, and would look for '{data.name}' "
        f"{where}, where nothing is; put the images into a bucket: {remedy}"
    )


def _without_folder(data: DataSettings) -> str:
    return "are fetched by each worker" if data.name.startswith(HUB) else "come with the code"


def render_line(job: Job, recipe: Recipe, *, bucket: bool) -> str:
    """Returns a line on the images for a job that is only shown; nothing is asked."""
    data = recipe.data
    if bucket and (reason := unreachable(job, data)):
        return f"submit refuses this: {reason}"
    place = location_of(job, data)
    if place is None:
        return f"'{data.name}' {_without_folder(data)}"
    where = f"in '{place}'" if place else "in TFDS's own folder"
    return f"'{data.name}' {where}; submit looks whether they are there"


def look(job: Job, recipe: Recipe, *, bucket: bool, storage_of: Callable[[str], Storage]) -> str:
    """Returns a line on the images that the workers will find, and on what cannot be told from here.

    Args:
      job: the job.
      recipe: its recipe.
      bucket: whether the workers reach nothing but a bucket.
      storage_of: storage of a path, as :func:`.storage.storage_of` gives it.

    Raises:
      UserError: the images are not there, not prepared, or not as many as they are known to be.
    """
    data, place = recipe.data, location_of(job, recipe.data)
    if place is None:
        return f"images: '{data.name}' {_without_folder(data)}"
    if bucket and (reason := unreachable(job, data)):
        raise UserError(reason)
    if not is_bucket(place):
        source = open_images(recipe)  # raises UserError, with the remedy
        line = f"images: {source.num_train:,} to train and {source.num_eval:,} to evaluate of '{data.name}'"
        here = "here, where the workers are" if job.backend in ("fake", "local") else f"here; {_UNASKED}"
        return f"{line} are {here}"
    try:
        storage = storage_of(place)
        exists = storage.exists(place)
    except Exception as error:  # of the network, of the credentials, of the service
        return f"images: nothing was looked up in '{place}': {_one_line(error)}"
    if not exists:
        raise UserError(
            f"the images are to be in '{place}', and there is no bucket gs://{split(place)[0]}; correct "
            f"--config.data.{'name' if is_path(data.name) else 'data_dir'}"
        )
    try:
        images = _look_in_bucket(data, place.rstrip("/"), storage)
    except UserError:
        raise
    except Exception as error:
        return f"images: nothing was looked up in '{place}': {_one_line(error)}"
    return f"images: {images}; {_UNASKED}"


def _look_in_bucket(data: DataSettings, place: str, storage: Storage) -> str:
    """Returns a line on the images in a bucket; raises UserError if they are not there whole."""
    splits = dict.fromkeys(_names(data.train_split) + _names(data.eval_split))
    kind = data.name.partition(":")[0]
    if kind == "folder":
        if not storage.folders(place):
            raise UserError(f"'{place}' has no class folders; copy them there, or correct --config.data.name")
        return f"class folders are in '{place}'; they were not counted"
    if kind == "tfrecord":
        files = storage.names(place)
        for split_name in splits:
            _require_shards([name for name in files if name.startswith(f"{split_name}-")], split_name, place)
        return f"all record files are in '{place}'"
    folder = place if kind == "prepared" else _prepared_folder(data, place, storage)
    info = _read_info(folder, storage)
    files, counts = storage.names(folder), {}
    for split_name in splits:
        if split_name not in info:
            raise UserError(
                f"'{folder}' has no split '{split_name}', only {', '.join(sorted(info))}; name one of these"
            )
        shards = [name for name in files if f"-{split_name}." in name]
        _require_shards(shards, split_name, folder, expected=len(info[split_name]))
        counts[split_name] = sum(info[split_name])
    _require_counts(data, counts, folder)
    numbers = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    return f"{numbers} are prepared in '{folder}'"


def _prepared_folder(data: DataSettings, place: str, storage: Storage) -> str:
    """Returns the folder of a TFDS data set's newest version, or of the version that its name asks for."""
    name, _, version = data.name.partition(":")
    base = f"{place}/{name}"
    folders = {folder: f"{base}/{folder}" for folder in storage.folders(base)}
    for config in [folder for folder in folders if not _VERSION.fullmatch(folder)]:
        folders |= {number: f"{base}/{config}/{number}" for number in storage.folders(f"{base}/{config}")}
    versions = [folder for folder in folders if _VERSION.fullmatch(folder) and version in ("", folder)]
    if not versions:
        flag = f" --data_dir={place}"
        raise UserError(
            f"'{data.name}' is not prepared in '{place}': there is no folder {name}/{version or 'VERSION'}; "
            f"run `tfds build {name.partition('/')[0]}{flag}` once, or correct --config.data.data_dir"
        )
    return folders[max(versions, key=lambda number: tuple(map(int, number.split("."))))]


def _read_info(folder: str, storage: Storage) -> dict[str, list[int]]:
    """Returns the numbers of examples in the files of each split."""
    contents = storage.read(f"{folder}/{_INFO}")
    if contents is None:
        raise UserError(f"'{folder}' has no {_INFO}: it is not prepared to its end; prepare it again")
    try:
        info: dict[str, Any] = json.loads(contents)
        if info.get("fileFormat") == "array_record":
            raise UserError(
                f"'{folder}' holds ArrayRecord files, which workers cannot read from a bucket; prepare it "
                "with `tfds build --file_format=tfrecord`"
            )
        return {part["name"]: [int(length) for length in part["shardLengths"]] for part in info["splits"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{folder}/{_INFO}' is damaged ({error}); prepare the data set again") from error


def _require_shards(names: list[str], split_name: str, folder: str, *, expected: int | None = None) -> None:
    shards = {match[1]: int(match[2]) for name in names if (match := _SHARD.search(name))}
    total = expected or max(shards.values(), default=0)
    if not total or len(shards) != total:
        raise UserError(
            f"'{folder}' has {len(shards):,} of {total:,} files of split '{split_name}'; copy all there"
        )


def _require_counts(data: DataSettings, counts: dict[str, int], folder: str) -> None:
    """Raises UserError for a published data set whose whole splits have other numbers."""
    numbers = PUBLISHED_NUMBERS.get(data.name.partition(":")[0], ImageNumbers(0, 0, 0))
    for split_name, expected in ((data.train_split, numbers.num_train), (data.eval_split, numbers.num_eval)):
        if split_name in counts and expected and counts[split_name] != expected:
            raise UserError(
                f"'{folder}' has {counts[split_name]:,} images of split '{split_name}', and {data.name} has "
                f"{expected:,}; prepare it again, whole"
            )


def _names(split_name: str) -> list[str]:
    return [part.partition("[")[0].strip() for part in split_name.split("+")]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
