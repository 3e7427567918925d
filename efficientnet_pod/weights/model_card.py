"""The model card of exported weights, ``README.md``, as the Hugging Face hub reads it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath
from jinja2 import Environment, PackageLoader, StrictUndefined

from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.report.head import head_of
from efficientnet_pod.report.records import RunRecords, read_run_records
from efficientnet_pod.report.side_by_side import run_of
from efficientnet_pod.weights.folder import architecture
from efficientnet_pod.weights.trained import Trained
from efficientnet_pod.workdir.files import is_remote
from efficientnet_pod.workdir.values import dig, flatten, list_of


@dataclasses.dataclass(frozen=True)
class CardFile:
    """A file of the folder.

    Attributes:
      name: name of the file.
      purpose: use of the file, in a few words.
      code: Python that loads it; empty for files that are loaded with their folder.
      size: its bytes; 0 before it is written.
    """

    name: str
    purpose: str
    code: str = ""
    size: int = 0


def model_card(trained: Trained, files: Sequence[CardFile], *, name: str, folder: str) -> str:
    """Returns the card in Markdown, with the hub's metadata before it.

    If the weights are a run's whose workdir is here, the card has its accuracy, hardware, hours, price and
    recipe. Its code loads the model from ``folder``.
    """
    records = _records(trained)
    facts, what = [], ""
    if records:
        head = head_of(run_of(records))
        facts, what = [fact for fact in head.facts if fact.value], head.what
    template = Environment(
        loader=PackageLoader("efficientnet_pod", "weights"), undefined=StrictUndefined, autoescape=False
    ).get_template("model_card.md")
    return template.render(
        trained=trained,
        name=name,
        folder=folder,
        architecture=architecture(trained.network, trained.bn_epsilon),
        parameters=trained.num_parameters,
        tags=["image-classification", "jax", "efficientnet-pod", trained.network],
        data={"name": records.data.get("name")} if records and records.data.get("name") else None,
        metrics=_metrics(trained) if records else [],
        what=what,
        facts=facts,
        rows=_rows(trained, records),
        files=files,
        notes=list_of(dig(records.plan, "recipe.notes")) if records else [],
        recipe=_recipe(records) if records else "",
    )


def _records(trained: Trained) -> RunRecords | None:
    """Returns the records of the run that made the weights; None if its workdir is not here."""
    source = str(trained.origin.get("source", ""))
    if "step" not in trained.origin or not (is_remote(epath.Path(source)) or Path(source).is_dir()):
        return None
    return read_run_records(source)


def _metrics(trained: Trained) -> list[dict[str, Any]]:
    """Returns the checkpoint's accuracies in percent, as the hub wants them."""
    metrics = trained.origin.get("metrics") or {}
    titles = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy"}
    return [
        {"type": "accuracy", "name": title, "value": round(100 * metrics[key], 4)}
        for key, title in titles.items()
        if key in metrics
    ]


def _rows(trained: Trained, records: RunRecords | None) -> list[tuple[str, str]]:
    origin, rows = trained.origin, []
    if "source" in origin:
        step = f", step {origin['step']:,}" if "step" in origin else ""
        averaged = ", weights averaged over the training" if origin.get("averaged") else ""
        rows.append(("Weights", f"`{Path(str(origin['source'])).name}`{step}{averaged}"))
    for key, title in (("layout", "Read as"), ("sha256", "SHA-256 of the file"), ("digest", "State digest")):
        if origin.get(key):
            rows.append((title, f"`{origin[key]}`" if key != "layout" else str(origin[key])))
    if records and (versions := dig(records.summary, "versions")):
        names = [name for name in ("efficientnet_pod", "jax", "flax") if name in versions]
        rows.append(("Made with", ", ".join(f"{name} {versions[name]}" for name in names)))
    return rows


def _recipe(records: RunRecords) -> str:
    """Returns the fields in which the recipe differs from the neutral one, as JSON."""
    neutral = dict(flatten(json.loads(base_config().to_json_best_effort())))
    chosen = records.config.get("optimizer", {}).get("name")
    fields = {
        name: value
        for name, value in flatten(records.config)
        if neutral.get(name, ...) != value
        and name != "notes"
        and (not name.startswith("optimizer.") or name.split(".")[1] in (chosen, "name"))
    }
    return json.dumps(fields, indent=2, ensure_ascii=False) if fields else ""
