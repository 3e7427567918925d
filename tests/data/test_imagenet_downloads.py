"""ImageNet's archives and Kaggle's folders, generated small: labels by their tables, and torn downloads."""

import re
import shutil

import pytest
from photo_archives import SYNSETS, write_imagenet_tars, write_kaggle
from photos import write_folder

from efficientnet_pod.cli.data import run_data
from efficientnet_pod.data import prepare as preparing
from efficientnet_pod.data.sources import imagenet_downloads
from efficientnet_pod.data.sources.imagenet_downloads import DEVKIT, PUBLISHED, TRAIN, VALIDATION
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.errors import UserError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counts = {"train": (3, 2, 2), "validation": (1, 2, 1)}
    return write_folder(
        tmp_path / "photos",
        {f"{split}/{s}": n for split in counts for s, n in zip(SYNSETS, counts[split], strict=True)},
    )


@pytest.fixture
def tars(photos, tmp_path, monkeypatch):
    return write_imagenet_tars(photos, tmp_path / "tars", monkeypatch)


@pytest.fixture
def kaggle(photos, tmp_path):
    return write_kaggle(photos, tmp_path / "kaggle")


def stored(split):
    return sorted(
        (example["image"], int(example["label"]))
        for example in read_part(split, 0, split.num_examples).as_numpy_iterator()
    )


def refused(name, **splits):
    """Returns the one line that the data set is refused with."""
    with pytest.raises(UserError) as caught:
        open_source(name, **splits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_published_sizes_are_those_of_the_archives_of_2012():
    assert {name: archive.num_bytes for name, archive in PUBLISHED.items()} == {
        "ILSVRC2012_img_train.tar": 147_897_477_120,
        "ILSVRC2012_img_val.tar": 6_744_924_160,
        "ILSVRC2012_devkit_t12.tar.gz": None,
    }
    assert all(size % 10_240 == 0 for size in (147_897_477_120, 6_744_924_160))  # whole records of a tar file


@pytest.mark.parametrize("file", [TRAIN, VALIDATION, DEVKIT])
def test_a_torn_or_missing_archive_is_one_line(tars, file):
    content = (tars / file).read_bytes()
    (tars / file).write_bytes(content[: len(content) // 2])
    if file == DEVKIT:
        assert "has the MD5" in refused(f"imagenet-tars:{tars}")
    else:
        expected = (
            f"has {len(content) // 2:,} bytes, and {len(content):,} were published: its download is not"
        )
        assert expected in refused(f"imagenet-tars:{tars}")
    (tars / file).unlink()
    assert f"archive '{tars}/{file}' is missing" in refused(f"imagenet-tars:{tars}")


def test_a_bit_that_flipped_is_found_before_a_copy_is_written_and_looked_for_once(
    tars, tmp_path, capsys, monkeypatch
):
    command = ["prepare", f"--from=imagenet-tars:{tars}", "--resize=24", f"--output={tmp_path}/copy"]
    content = bytearray((tars / TRAIN).read_bytes())
    content[2000] ^= 1
    (tars / TRAIN).write_bytes(content)
    with pytest.raises(UserError, match=f"archive '{tars}/{TRAIN}' has the MD5 .* it is damaged"):
        run_data(command)
    assert not list((tmp_path / "copy").glob("*.array_record*"))
    content[2000] ^= 1
    (tars / TRAIN).write_bytes(content)
    run_data(command)
    printed = capsys.readouterr().out
    assert re.match(r"the copy needs about 0\.0 MiB, by 11 of its images; ", printed)
    assert "11 images, " in printed and f"prepared:{tmp_path}/copy" in printed
    copy = open_source(f"prepared:{tmp_path}/copy")
    assert (copy.class_names, copy.num_train, copy.num_eval) == (SYNSETS, 7, 4)
    monkeypatch.setattr(imagenet_downloads.hashlib, "md5", lambda **_: pytest.fail("read again"))
    imagenet_downloads.require_whole(f"imagenet-tars:{tars}")


def test_the_kits_numbers_become_labels_in_the_order_of_the_names(tars):
    synsets, truth = imagenet_downloads.read_devkit(str(tars / DEVKIT))
    assert synsets == SYNSETS and sorted(truth) == sorted([*SYNSETS, SYNSETS[1]])


def test_archives_that_do_not_fit_together_are_refused(tars, photos, tmp_path, monkeypatch):
    shutil.rmtree(photos / "train" / SYNSETS[2])
    (photos / "validation" / SYNSETS[0] / "000.jpg").unlink()
    fewer = write_imagenet_tars(photos, tmp_path / "fewer", monkeypatch)
    shutil.copy(tars / DEVKIT, fewer / DEVKIT)
    archive = imagenet_downloads.PUBLISHED[DEVKIT]
    digest = imagenet_downloads.hashlib.md5((tars / DEVKIT).read_bytes()).hexdigest()
    imagenet_downloads.PUBLISHED[DEVKIT] = archive._replace(md5=digest)
    assert "has 3 images, and the development kit labels 4" in refused(f"imagenet-tars:{fewer}")


@pytest.mark.parametrize("kind", ["imagenet-tars", "kaggle"])
def test_splits_are_called_train_validation_and_val(request, kind):
    folder = request.getfixturevalue("tars" if kind == "imagenet-tars" else kind)
    assert open_source(f"{kind}:{folder}", train_split="val", eval_split="val").num_train == 4
    message = refused(f"{kind}:{folder}", eval_split="test")
    assert "has no split 'test'; name train or validation: --config.data.train_split" in message


def test_kaggles_validation_images_have_the_labels_of_its_table(kaggle, photos):
    assert stored(open_source(f"kaggle:{kaggle}").eval) == stored(open_source(f"folder:{photos}").eval)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("LOC_val_solution.csv", None, "LOC_val_solution.csv' cannot be read"),
        ("LOC_synset_mapping.txt", None, "LOC_synset_mapping.txt' cannot be read"),
        ("LOC_val_solution.csv", ("n01", "n09"), "line 2 of '.*' has no class of LOC_synset_mapping.txt"),
        ("LOC_val_solution.csv", ("00000001,", ","), "val/ILSVRC2012_val_0*.JPEG' is missing, which LOC_val"),
        ("LOC_synset_mapping.txt", ("n01484850", "n01484851"), "differ in 2 classes, first 'n01484850'"),
        ("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000004.JPEG", None, "val_00000004.JPEG' is missing"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(kaggle, file, change, message):
    path = kaggle / file
    text = path.read_text() if change else ""
    path.unlink()
    if change:
        path.write_text(text.replace(*change))

    assert re.search(message, refused(f"kaggle:{kaggle}"))


def test_a_training_image_that_was_not_unpacked_is_named(kaggle):
    image = sorted((kaggle / "ILSVRC/Data/CLS-LOC/train" / SYNSETS[0]).iterdir())[0]
    image.unlink()
    message = refused(f"kaggle:{kaggle}")
    assert f"1 training images are missing in '{kaggle}/ILSVRC/Data/CLS-LOC/train', first" in message
    assert f"{SYNSETS[0]}/{image.name}'" in message


def test_a_validation_image_without_a_label_is_refused(kaggle):
    folder = kaggle / "ILSVRC/Data/CLS-LOC/val"
    (folder / "more.JPEG").write_bytes(b"")
    assert "has 5 files, and LOC_val_solution.csv labels 4" in refused(f"kaggle:{kaggle}")
    assert "does not exist; a kaggle source is the unpacked download" in refused(f"kaggle:{folder}")


def test_a_copy_killed_on_the_way_goes_on_and_a_full_disk_is_said_first(
    kaggle, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(preparing, "free_bytes", lambda folder: 1000)
    command = ["prepare", f"--from=kaggle:{kaggle}", "--resize=24", f"--output={tmp_path}/copy"]
    with pytest.raises(
        UserError, match=r"needs about 0\.0 MiB, by 11 .*; 0\.0 MiB are free in '.*copy'; make room"
    ):
        run_data(command)
    monkeypatch.undo()
    monkeypatch.setattr(preparing, "write_shard", _killed_at_the_second(preparing.write_shard))
    with pytest.raises(KeyboardInterrupt):
        run_data(command)
    monkeypatch.undo()
    run_data(command)
    assert "; 4 of them written by this start" in capsys.readouterr().out


def _killed_at_the_second(write_shard):
    def once(path, *arguments, **options):
        if "validation" in path.name:
            raise KeyboardInterrupt
        return write_shard(path, *arguments, **options)

    return once
