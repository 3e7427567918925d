"""The drawings of the pages on concepts. Numbers and places come from the program wherever it has them."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

from efficientnet_pod.pod.topology import bn_device_order, describe_bn_groups
from efficientnet_pod.recipe.named import config_of
from efficientnet_pod.recipe.plan import Plan, resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import PUBLISHED_NUMBERS
from from_code.svg import GROUPS, WIDTH, Picture

RECORDS = Path(__file__).parents[3] / "records"


class Core(NamedTuple):
    """A core of a TPU that is not here."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    core_on_chip: int


def plan() -> str:
    """Returns the way from a recipe, the images and the devices to the numbers of a run."""
    made = _plan_of("supercomputer", "b5,65536,lars", devices=1024, hosts=128)
    picture = Picture(322, title="Recipe, images and devices are resolved into one plan")
    inputs = (
        ("recipe", "B5, 65,536", "350 epochs"),
        ("images", f"{made.num_train:,}", "to train"),
        ("devices", f"{made.num_devices:,} cores", f"on {made.num_hosts} hosts"),
    )
    for place, lines in enumerate(inputs):
        x = 5 + 125 * place
        picture.labelled(x, 5, 118, 62, *lines, kind=f"g{place}")
        picture.line(x + 59, 67, x + 59, 88)
    picture.line(64, 88, 314, 88)
    picture.arrow(190, 88, 190, 104)
    picture.labelled(130, 106, 120, 34, "Plan")
    picture.arrow(190, 140, 190, 162)
    numbers = (
        ("images of a host in a step", f"{made.host_batch:,}"),
        ("images of a replica in a step", f"{made.per_replica_batch:,}"),
        ("images that normalise together", f"{made.bn_batch:,}"),
        ("steps of an epoch", f"{made.steps_per_epoch:.2f}"),
        ("steps of the run", f"{made.total_steps:,}"),
        ("peak learning rate", f"{made.peak_lr:.4g}"),
    )
    picture.box(5, 164, 368, 152)
    for place, (name, value) in enumerate(numbers):
        y = 182 + 23 * place
        picture.text(18, y, name, anchor="start")
        picture.text(360, y, value, anchor="end", kind="strong")
    return picture.figure()


def bn_torus(side: int = 8, group_size: int = 16) -> str:
    """Returns the batch-norm groups on a square of TPU v3 chips, as the program orders the cores."""
    cores = [
        Core(4 * (y * side + x) + core, (y // 2) * side // 2 + x // 2, (x, y, 0), core)
        for y, x, core in product(range(side), range(side), range(2))
    ]
    order = bn_device_order(cores, group_size)
    picture = Picture(372, title=describe_bn_groups(cores, group_size))
    pitch = 42
    for place, core in enumerate(order):
        group = place // group_size
        x, y = 24 + pitch * core.coords[0], 8 + pitch * core.coords[1]
        picture.box(x + 18 * core.core_on_chip, y, 17, 36, f"g{group % GROUPS}")
        if core.core_on_chip == 1:
            picture.text(x + 17.5, y + 18, str(group))
    picture.text(WIDTH / 2, 356, describe_bn_groups(cores, group_size))
    return picture.figure()


def mesh() -> str:
    """Returns the mesh of two groups of four replicas, and what is summed along each axis."""
    picture = Picture(238, title="Batch norm is summed along a row, loss and gradients over all rows")
    for row, column in product(range(2), range(4)):
        x, y = 70 + 74 * column, 40 + 62 * row
        picture.labelled(x, y, 62, 42, f"replica {4 * row + column}", kind=f"g{row}")
    for row in range(2):
        picture.text(34, 61 + 62 * row, f"group {row}")
        picture.arrow(72, 88 + 62 * row, 352, 88 + 62 * row)
    picture.text(WIDTH / 2, 20, "axis bn_member: batch norm sums over a row", kind="strong")
    picture.line(70, 168, 354, 168)
    for x in (70, 354):
        picture.line(x, 162, x, 168)
    picture.text(WIDTH / 2, 186, "both axes: loss, gradients and counts", kind="strong")
    picture.text(WIDTH / 2, 206, "are summed over all replicas")
    picture.text(WIDTH / 2, 226, "The colour is the group.", kind="muted")
    return picture.figure()


def replicas(number: int = 8, group_size: int = 2) -> str:
    """Returns eight replicas on eight devices, on two, and on one."""
    picture = Picture(412, title="Eight replicas on eight devices, on two devices and on one")
    y = 14.0
    for devices in (8, 2, 1):
        parts = number // max(devices, group_size)
        together = max(1, group_size // devices)
        word = "devices" if devices > 1 else "device"
        times = "one part" if parts == 1 else f"{parts} parts, one after the other"
        picture.text(6, y, f"{devices} {word}: {times}", anchor="start", kind="strong")
        height = 13 if devices == 8 else 26
        for device in range(devices):
            top = y + 14 + (height + 3) * device
            if devices > 1 and devices <= 2:
                picture.text(6, top + height / 2, f"device {device}", anchor="start", kind="muted")
            for part in range(parts):
                first = (part * devices + device) * together
                shown = f"{first}" if together == 1 else f"{first} and {first + 1}"
                kind = f"g{first // group_size}"
                picture.labelled(72 + 60 * part, top, 56, height, shown, kind=kind)
        width = 60 * parts
        y += 14 + (height + 3) * devices
        picture.labelled(72 + width, y - (height + 3) * devices, 52, (height + 3) * devices - 3, "update")
        y += 28
    picture.arrow(72, y - 6, 360, y - 6)
    picture.text(216, y + 10, "time; the colour is the batch-norm group", kind="muted")
    return picture.figure().replace("0 0 380 412", f"0 0 380 {y + 24:g}")


def evaluation(images: int = 1003, of_a_replica: int = 32, number: int = 8) -> str:
    """Returns the last batch of an evaluation, which is filled up with images that count 0."""
    batch = of_a_replica * number
    steps = -(-images // batch)
    picture = Picture(70 + 34 * steps, title=f"{images:,} images in {steps} steps of {batch}")
    for step in range(steps):
        real = min(batch, images - step * batch)
        y = 10 + 34 * step
        picture.text(6, y + 13, f"step {step + 1}", anchor="start", kind="muted")
        for replica in range(number):
            here = max(0, min(of_a_replica, real - replica * of_a_replica))
            x, width = 52 + 34 * replica, 31
            picture.box(x, y, width, 26, "hollow")
            if here:
                picture.box(x, y, width * here / of_a_replica, 26, "g0")
        picture.text(374, y + 13, f"{real}", anchor="end", kind="strong")
    y = 22 + 34 * steps
    picture.text(190, y, f"{images:,} counted, {steps * batch - images} places filled up that count 0")
    picture.text(190, y + 22, "A column is a replica. Filled: images of the set.", kind="muted")
    return picture.figure()


def randomness() -> str:
    """Returns what each random draw is a function of."""
    picture = Picture(262, title="Each draw is a function of the seed and of a place in the run")
    rows = (
        ("seed, epoch", "order of the images", "g0"),
        ("seed, epoch, image", "crop, flip, policy", "g0"),
        ("seed, step, replica", "dropout, mixup, depth", "g1"),
        ("seed", "initial weights", "g2"),
    )
    for place, (key, draw, kind) in enumerate(rows):
        y = 26 + 54 * place
        picture.labelled(5, y, 158, 38, key, kind=kind)
        picture.arrow(165, y + 19, 203, y + 19)
        picture.labelled(206, y, 168, 38, draw)
    picture.text(84, 12, "known before the run", kind="strong")
    picture.text(290, 12, "drawn anew at any time", kind="strong")
    picture.text(190, 250, "No state of a generator is kept or saved.", kind="muted")
    return picture.figure()


def resume() -> str:
    """Returns an undisturbed run beside one that was killed and started again."""
    picture = Picture(
        216, title="A killed run repeats the steps after its checkpoint and ends with the same bits"
    )

    def steps(x: int, y: int, first: int, last: int, kind: str) -> None:
        for step in range(first, last + 1):
            picture.labelled(x + 24 * (step - first), y, 22, 26, str(step), kind=kind)

    picture.text(6, 14, "never disturbed", anchor="start", kind="strong")
    steps(6, 28, 1, 12, "g0")
    picture.text(6, 76, "killed after step 7, checkpoint at step 5", anchor="start", kind="strong")
    steps(6, 90, 1, 5, "g0")
    steps(126, 90, 6, 7, "hollow")
    picture.text(182, 103, "kill -9", anchor="start", kind="muted")
    picture.arrow(113, 118, 113, 138)
    picture.text(122, 130, "the same command again", anchor="start", kind="muted")
    steps(126, 142, 6, 12, "g0")
    picture.text(299, 14, "digest = d", anchor="end")
    picture.text(294, 186, "digest = d, to the bit", anchor="end", kind="strong")
    picture.text(6, 206, "metrics.jsonl has each step once.", anchor="start", kind="muted")
    return picture.figure()


def preflight() -> str:
    """Returns the minutes of two published runs beside the estimates, as the records have them."""
    pattern = r"(B\d)\s+at\s+([\d,]+)[^;]*?took (\d+) minutes; this account says ([\d.]*\d)"
    found = re.findall(pattern, (RECORDS / "tpu_scale.md").read_text().replace("\n", " "))
    picture = Picture(34 + 84 * len(found), title="Published minutes of two runs beside the estimated ones")
    most = max(float(number) for row in found for number in row[2:])
    for place, (network, batch, published, estimate) in enumerate(found):
        y = 14 + 84 * place
        picture.text(6, y, f"{network}, {batch} images a step, 1,024 v3 cores", anchor="start", kind="strong")
        for line, (word, minutes, kind) in enumerate(
            (("published", published, "g2"), ("estimate", estimate, "g0"))
        ):
            top = y + 14 + 26 * line
            picture.text(6, top + 11, word, anchor="start", kind="muted")
            picture.box(84, top, 230 * float(minutes) / most, 22, kind)
            picture.text(90 + 230 * float(minutes) / most, top + 11, f"{minutes} min", anchor="start")
    picture.text(190, 20 + 84 * len(found), "Shorter is faster.", kind="muted")
    return picture.figure()


DRAWINGS: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (plan, bn_torus, mesh, replicas, evaluation, randomness, resume, preflight)
}


def _plan_of(name: str, argument: str, *, devices: int, hosts: int) -> Plan:
    recipe = read_recipe(config_of(name, argument))
    numbers = vars(PUBLISHED_NUMBERS["imagenet2012"])
    return resolve(recipe, **numbers, num_devices=devices, num_hosts=hosts, default_dtype="bfloat16")
