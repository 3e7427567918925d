"""The model card of exported weights, ``README.md``, as the Hugging Face hub reads it."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.report.head import head_of
from efficientnet_pod.report.records import RunRecords, read_run_records
from efficientnet_pod.report.side_by_side import run_of
from efficientnet_pod.weights.folder import public_name
from efficientnet_pod.weights.timm_config import architecture
from efficientnet_pod.weights.trained import Trained
from efficientnet_pod.workdir.values import dig, flatten, list_of, table_of

# Images under a path, which is nobody's business elsewhere, by the word before it in ``config.data.name``.
_PRIVATE_DATA = {
    "folder": "a folder of images",
    "tfrecord": "record files in the layout of tensorflow/tpu",
    "prepared": "a prepared data set",
}


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


@dataclasses.dataclass(frozen=True)
class Published:
    """Facts that the user states about published weights; None where they are as known.

    Attributes:
      license: the hub's name of a licence, such as ``apache-2.0``.
      dataset_name: name of the images, on the hub if they are there.
      base_model: ``OWNER/NAME`` of the weights that the training began with.
      push: ``hf:OWNER/NAME`` of the repository on the hub that the weights go to.
    """

    license: str | None = None
    dataset_name: str | None = None
    base_model: str | None = None
    push: str | None = None

    @property
    def repository(self) -> str:
        """``OWNER/NAME`` on the hub; empty if the weights stay here."""
        return (self.push or "").removeprefix("hf:")


def model_card(
    trained: Trained, files: Sequence[CardFile], *, name: str, published: Published | None = None
) -> str:
    """Returns the card in Markdown, with the hub's metadata before it.

    If the weights are a run's whose workdir is here, the card has its accuracy, hardware, hours, price and
    recipe. Folders of this machine are not named. Its code loads the model from the folder ``name``, or
    from the hub.
    """
    published = published or Published()
    records = _records(trained, published.dataset_name)
    facts, what = [], ""
    if records:
        head = head_of(run_of(records))
        facts, what = [fact for fact in head.facts if fact.value], head.what
    template = Environment(
        loader=PackageLoader("efficientnet_pod", "weights"), undefined=StrictUndefined, autoescape=False
    ).get_template("model_card.md")
    return template.render(
        trained=trained,
        name=published.repository.rpartition("/")[2] or name,
        place=published.push or name,
        timm_place=f"hf-hub:{published.repository}" if published.push else f"local-dir:{name}",
        license=published.license or trained.origin.get("license") or "unknown",
        base_model=published.base_model or trained.origin.get("base_model"),
        architecture=architecture(trained.network, trained.bn_epsilon, padding=trained.padding),
        parameters=trained.num_parameters,
        tags=["image-classification", "jax", "efficientnet-pod", trained.network],
        datasets=_datasets(records, published.dataset_name),
        data=published.dataset_name or (records and records.data.get("name")) or "unknown",
        metrics=_metrics(trained) if records else [],
        what=what,
        facts=facts,
        rows=_rows(trained, records),
        files=files,
        notes=list_of(dig(records.plan, "recipe.notes")) if records else [],
        recipe=_recipe(records) if records else "",
    )


def _records(trained: Trained, dataset_name: str | None) -> RunRecords | None:
    """Returns the records of the run that made the weights, with public names for images and weights.

    None if its workdir is not here.
    """
    if "workdir" not in trained.origin:
        return None
    records = read_run_records(trained.origin["workdir"])
    parts = {part: dict(table_of(records.config.get(part))) for part in ("data", "init")}
    config = records.config | parts
    config["data"].pop("data_dir", None)
    kind = str(records.data.get("name") or dig(config, "data.name") or "").partition(":")[0]
    name = dataset_name or _PRIVATE_DATA.get(kind, dig(config, "data.name"))
    if name:
        config["data"]["name"] = name
    if weights := config["init"].get("weights"):
        config["init"]["weights"] = public_name(str(weights))
    return dataclasses.replace(records, config=config, data={**records.data, "name": name})


def _datasets(records: RunRecords | None, given: str | None) -> list[str]:
    """Returns the names of images that others can have."""
    name = given or (records and records.data.get("name"))
    return [str(name)] if name and name not in _PRIVATE_DATA.values() else []


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
        note = ""
        if steps := origin.get("average_of"):
            step = f", the mean of steps {', '.join(f'{step:,}' for step in steps)}"
            note = "; the accuracies here are the run's, not the mean's"
        averaged = ", weights averaged over the training" if origin.get("averaged") else ""
        rows.append(("Weights", f"`{public_name(str(origin['source']))}`{step}{averaged}{note}"))
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
