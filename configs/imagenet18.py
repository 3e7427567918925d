"""imagenet18: ResNet-50 to 93 % top-5 in 18 minutes, with images that grow while it trains.

Source: fast.ai and DIUx, "Training Imagenet in 3 hours for $25" and "… in 18 minutes" (2018); the phases of
1, 4, 8 and 16 machines of 8 V100 are those of cybertronai/imagenet18_old, train.py, which notes 109:12,
29:44, 19:04 and 16:08 minutes to 93.00, 93.05, 93.0 and 93.04 % top-5: 11 to 27 dollars at .79 a V100-hour.
Not yet reproduced with this code: no figure of ours stands here. Different from it: bfloat16 instead of
float16 with a loss scale; crops are made of the whole images, not of copies of 160 and 352 pixels
(`efficientnet-pod data prepare` makes such copies); and every evaluation is at 288 pixels with rectangular
crops, as there the last.
Command, on each of 16 machines: efficientnet-pod train --config=configs/imagenet18.py:16 --workdir=DIR
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from efficientnet_pod.recipe.base_config import base_config, require_row

GPUS = 8  # of a machine


class Stage(NamedTuple):
    """Epochs of one image size and one batch a GPU, from ``epoch`` on."""

    epoch: int
    size: int
    per_gpu: int
    min_crop_area: float = 0.08


class Run(NamedTuple):
    """What was run on so many machines.

    Attributes:
      lr: learning rate at the start, of the first stage's batch.
      epochs: of all stages.
      stages: of the images.
      factors: (epoch, factor) of ``lr``; a rate there is ``lr · factor · batch / first batch``, for example
        ``lr / 10 · 224 / 128``. Straight lines between, jumps where an epoch stands twice.
      published: minutes and top-5.
    """

    lr: float
    epochs: int
    stages: tuple[Stage, ...]
    factors: tuple[tuple[int, float], ...]
    published: str


RUNS = {
    1: Run(
        1.0, 35,
        (Stage(0, 128, 512), Stage(14, 224, 224), Stage(32, 288, 128, 0.5)),
        ((0, 1), (5, 2), (5, 1), (16, 1), (16, 0.1), (27, 0.1), (27, 0.01), (33, 0.01), (33, 0.001),
         (35, 0.001)),
        "93.00 % top-5 in 109:12 minutes",
    ),
    4: Run(
        2.0, 30,
        (Stage(0, 128, 256), Stage(6, 128, 512), Stage(13, 224, 224, 0.087), Stage(28, 288, 128, 0.5)),
        ((0, 1), (6, 2), (6, 1), (11, 1), (13, 0.5), (13, 1), (16, 1), (23, 0.1), (28, 0.01), (30, 0.001)),
        "93.05 % top-5 in 29:44 minutes",
    ),
    8: Run(
        1.92, 35,
        (Stage(0, 128, 128), Stage(6, 128, 256), Stage(14, 224, 128, 0.087), Stage(17, 224, 224, 0.087),
         Stage(29, 288, 128, 0.5)),
        ((0, 1), (6, 2), (6, 1), (11, 1), (14, 0.5), (14, 1), (17, 1), (17, 128 / 224), (23, 0.1), (29, 0.01),
         (35, 0.001)),
        "93.0 % top-5 in 19:04 minutes",
    ),
    16: Run(
        1.88, 50,
        (Stage(0, 128, 64), Stage(6, 128, 128), Stage(16, 224, 64), Stage(19, 224, 192),
         Stage(37, 288, 128, 0.5)),
        ((0, 1), (6, 2), (6, 1), (19, 1), (19, 0.1), (31, 0.1), (31, 0.01), (38, 0.01), (38, 0.001),
         (50, 0.001)),
        "93.04 % top-5 in 16:08 minutes",
    ),
}  # fmt: skip


def get_config(machines: str = "16") -> ConfigDict:
    """Returns the recipe of ``:MACHINES``, each with eight GPUs: 1, 4, 8 or 16."""
    require_row(machines, map(str, RUNS))
    run = RUNS[int(machines)]
    gpus = GPUS * int(machines)
    global_batch = gpus * run.stages[0].per_gpu

    config = base_config()
    config.global_batch = global_batch
    config.epochs = float(run.epochs)
    config.model.name = "resnet50"
    config.model.zero_init_residual = True
    config.model.bn_epsilon = 1e-5
    config.data.image_size = 288
    config.data.eval_crop = "rectangular"
    config.optimizer.sgd = ConfigDict(
        dict(
            lr_per_256=run.lr * 256 / global_batch, momentum=0.9, nesterov=False, l2=1e-4, l2_everywhere=False
        )
    )
    config.schedule.name = "piecewise"
    config.schedule.knots = tuple((epoch / run.epochs, float(factor)) for epoch, factor in run.factors)
    for number, stage in enumerate(run.stages, start=1):
        config.phases[f"stage{number}"] = ConfigDict(
            dict(
                from_epoch=config.get_ref("epochs") * (stage.epoch / run.epochs),
                global_batch=gpus * stage.per_gpu,
                image_size=stage.size,
                min_crop_area=stage.min_crop_area,
            )
        )
    config.notes = (
        f"published: {run.published} on {machines} × {GPUS} V100; all numbers: imagenet18_old, train.py",
    )
    return config
