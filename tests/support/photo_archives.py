"""A folder of photos in the other layouts that can be read: Parquet, tar files, ImageNet's downloads."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat

from efficientnet_pod.data.sources import imagenet_downloads

SYNSETS = ("n01440764", "n01443537", "n01484850")  # of classes 0 to 2
KIT_NUMBERS = {"n01440764": 2, "n01443537": 3, "n01484850": 1}  # the kit has an order of its own
FEATURES = {"image": {"_type": "Image"}, "label": {"names": list(SYNSETS), "_type": "ClassLabel"}}


def files_of(root: Path, split: str) -> Iterator[tuple[Path, int]]:
    """Yields the photos of a split of a folder with their labels, mixed, always in the same order."""
    files = [(file, SYNSETS.index(file.parent.name)) for file in sorted((root / split).glob("*/*"))]
    for number in np.random.default_rng(0).permutation(len(files)):
        yield files[number]


def write_parquet(root: Path, out: Path, *, files: int = 2, group: int = 5) -> Path:
    """Writes the splits of a folder as Hugging Face does."""
    out.mkdir(exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split in ("train", "validation"):
        photos = list(files_of(root, split))
        for number in range(files):
            part = photos[len(photos) * number // files : len(photos) * (number + 1) // files]
            rows = [{"bytes": file.read_bytes(), "path": file.name} for file, _ in part]
            labels = pa.array([label for _, label in part], pa.int64())
            table = pa.table({"image": pa.array(rows, image), "label": labels})
            table = table.replace_schema_metadata(
                {"huggingface": json.dumps({"info": {"features": FEATURES}})}
            )
            pq.write_table(table, out / f"{split}-{number:05}-of-{files:05}.parquet", row_group_size=group)
    return out


def write_tar(path: Path, members: dict[str, bytes]) -> bytes:
    """Writes a tar file of these members, and returns it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def write_shards(root: Path, out: Path, *, files: int = 2) -> Path:
    """Writes the splits of a folder as webdataset does."""
    out.mkdir(exist_ok=True)
    for split in ("train", "validation"):
        photos = list(files_of(root, split))
        for number in range(files):
            members = {}
            for place, (file, label) in list(enumerate(photos))[number::files]:
                members[f"{place:06}.jpg"] = file.read_bytes()
                members[f"{place:06}.cls"] = str(label).encode()
                members[f"{place:06}.json"] = json.dumps({"label": label, "filename": file.name}).encode()
            write_tar(out / f"imagenet1k-{split}-{number:04}.tar", members)
    (out / "classnames.txt").write_text("\n".join(SYNSETS) + "\n")
    return out


def write_kaggle(root: Path, out: Path) -> Path:
    """Writes the splits of a folder as Kaggle's download has them once it is unpacked."""
    data, lists = out / "ILSVRC/Data/CLS-LOC", out / "ILSVRC/ImageSets/CLS-LOC"
    for folder in (data / "val", data / "test", lists):
        folder.mkdir(parents=True)
    listed, solution = [], ["ImageId,PredictionString"]
    for number, (file, label) in enumerate(files_of(root, "train")):
        (data / "train" / SYNSETS[label]).mkdir(parents=True, exist_ok=True)
        name = f"{SYNSETS[label]}_{number}"
        (data / "train" / SYNSETS[label] / f"{name}.JPEG").write_bytes(file.read_bytes())
        listed.append(f"{SYNSETS[label]}/{name} {number + 1}")
    for number, (file, label) in enumerate(files_of(root, "validation"), 1):
        name = f"ILSVRC2012_val_{number:08}"
        (data / "val" / f"{name}.JPEG").write_bytes(file.read_bytes())
        solution.append(f"{name},{SYNSETS[label]} 85 1 499 272 {SYNSETS[label]} 131 2 499 250 ")
    (lists / "train_cls.txt").write_text("\n".join(listed) + "\n")
    (out / "LOC_val_solution.csv").write_text("\n".join(solution) + "\n")
    (out / "LOC_synset_mapping.txt").write_text("".join(f"{synset} fish, of a kind\n" for synset in SYNSETS))
    return out


def write_imagenet_tars(root: Path, out: Path, monkeypatch) -> Path:
    """Writes the splits of a folder as ImageNet's makers do, whose sizes and MD5s then count as published."""
    out.mkdir()
    classes: dict[str, dict[str, bytes]] = {synset: {} for synset in SYNSETS}
    for number, (file, label) in enumerate(files_of(root, "train")):
        classes[SYNSETS[label]][f"{SYNSETS[label]}_{number}.JPEG"] = file.read_bytes()
    inner = {f"{synset}.tar": write_tar(out / "scratch", images) for synset, images in classes.items()}
    (out / "scratch").unlink()
    photos = list(files_of(root, "validation"))
    images = {f"ILSVRC2012_val_{n:08}.JPEG": file.read_bytes() for n, (file, _) in enumerate(photos, 1)}
    truth = "".join(f"{KIT_NUMBERS[SYNSETS[label]]}\n" for _, label in photos)
    contents = {
        imagenet_downloads.TRAIN: write_tar(out / imagenet_downloads.TRAIN, inner),
        imagenet_downloads.VALIDATION: write_tar(out / imagenet_downloads.VALIDATION, images),
        imagenet_downloads.DEVKIT: _write_kit(out / imagenet_downloads.DEVKIT, truth),
    }
    published = {
        name: imagenet_downloads.Archive(
            hashlib.md5(content).hexdigest(), len(content) if name != imagenet_downloads.DEVKIT else None
        )
        for name, content in contents.items()
    }
    monkeypatch.setattr(imagenet_downloads, "PUBLISHED", published)
    return out


def _write_kit(path: Path, truth: str) -> bytes:
    """Writes the development kit: the synsets by the kit's numbers, those above them behind, as published."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, synset, "fish", 0) for synset, number in KIT_NUMBERS.items()]
    rows = [*sorted(rows), (4, "n02512053", "fish of every kind", 3)]
    table = np.array([tuple(row) for row in rows], dtype=kinds).reshape(-1, 1)
    matrix = io.BytesIO()
    savemat(matrix, {"synsets": table})
    data = "ILSVRC2012_devkit_t12/data"
    with tarfile.open(path, "w:gz") as file:
        for name, content in (
            ("meta.mat", matrix.getvalue()),
            ("ILSVRC2012_validation_ground_truth.txt", truth.encode()),
        ):
            info = tarfile.TarInfo(f"{data}/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path.read_bytes()
