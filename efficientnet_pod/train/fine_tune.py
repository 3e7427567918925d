"""Fine-tuning in one call: trained weights, a folder of photos and the recipe ``configs/finetune.py``."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from efficientnet_pod.evaluate.predictor import Predictor
from efficientnet_pod.pod import runtime
from efficientnet_pod.pod.interrupt import NotebookInterrupt
from efficientnet_pod.recipe.dotted import with_fields
from efficientnet_pod.recipe.named import config_of
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.weights.open import open_weights
from efficientnet_pod.workdir.files import expanded


@dataclasses.dataclass(frozen=True, repr=False)
class FineTuned:
    """A run of :func:`fine_tune` that has ended.

    Attributes:
      workdir: path of the run's folder, which all functions take as the path of its weights.
      summary: contents of its ``summary.json``: accuracies, seconds, images/s, versions, digest.
    """

    workdir: str
    summary: dict[str, Any]

    def __repr__(self) -> str:
        images, step = self.summary["best"]["images"], self.best_step
        return f"FineTuned({self.workdir}: top-1 {self.top1:.2%} of {images:,} images at step {step:,})"

    @property
    def top1(self) -> float:
        """Best top-1 of all evaluations, 0..1."""
        return self.summary["best"]["top1"]

    @property
    def best_step(self) -> int:
        """Step of the best evaluation, whose checkpoint :meth:`predictor` takes."""
        return self.summary["best"]["step"]

    def predictor(self, *, checkpoint: str | int = "best", batch: int = 32) -> Predictor:
        """Returns what looks at images with the new weights; see :class:`.Predictor`."""
        return Predictor(open_weights(self.workdir, which=str(checkpoint)), batch=batch)


def fine_tune(folder: str, *, weights: str, workdir: str, fields: Mapping[str, Any]) -> FineTuned:
    """Trains the recipe ``configs/finetune.py`` to its end; a workdir that was begun goes on.

    Network, normalisation and epsilon follow from the weights. Where JAX runs on the CPU already, as in a
    notebook, its devices are taken. Ctrl-C is heard as by :class:`.NotebookInterrupt`.

    Args:
      folder: folder of photos, a folder a class.
      weights: path of trained weights, as :func:`.open_weights` takes it.
      workdir: folder of the run.
      fields: values of other fields of the recipe, by dotted name.

    Raises:
      UserError: as of :func:`.train_and_evaluate`; or the recipe has no such network or field.
      RunError: as of :func:`.train_and_evaluate`.
      KeyboardInterrupt: after Ctrl-C; what was trained is saved.
    """
    path = expanded(workdir)
    try:
        with NotebookInterrupt() as interrupt:
            with interrupt.nothing_to_lose():
                config = _config(expanded(folder), expanded(weights), fields)
            summary = train_and_evaluate(config, path, overrides=tuple(fields), interrupt=interrupt)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same call goes on from what is saved") from None
    return FineTuned(path, summary)


def _config(folder: str, weights: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    trained = open_weights(weights)
    of_weights = {
        "init.weights": weights,
        "data.name": f"folder:{folder.removeprefix('folder:')}",
        "data.mean_rgb": trained.mean_rgb,
        "data.stddev_rgb": trained.stddev_rgb,
        "model.bn_epsilon": trained.bn_epsilon,
        "model.padding": trained.padding,
    }
    config = with_fields(config_of("finetune", trained.network), of_weights | dict(fields))
    if "cpu_replicas" not in fields:
        here = runtime.start(config["platform"], config["cpu_replicas"], insist=False)
        if here.platform == "cpu":
            config["cpu_replicas"] = len(here.devices) // here.host_count
    return config
