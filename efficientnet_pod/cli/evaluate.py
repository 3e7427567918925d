"""The command ``evaluate``: any weights on any images, on all devices of all hosts."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.cli.host import define_hosts, joined
from efficientnet_pod.errors import UserError

if TYPE_CHECKING:
    from efficientnet_pod.evaluate.overrides import Asked
    from efficientnet_pod.run.run import Run
    from efficientnet_pod.weights.trained import Trained

_EXAMPLE = "efficientnet-pod evaluate WEIGHTS --data=folder:/photos"


def run_evaluate(arguments: Sequence[str]) -> None:
    """Evaluates what the flags name and prints the results, on host 0."""
    words: list[str] = []
    values = parse_flags("evaluate", arguments, _define, words=words)
    if values.workdir is not None:
        words.insert(0, values.workdir)
    if len(words) != 1:
        said = f"not {len(words)} of them: {' '.join(words)}" if words else "or --workdir=RUN"
        raise UserError(f"evaluate needs the path of weights, {said}; e.g. {_EXAMPLE}")
    if values.json and not Path(values.json).absolute().parent.is_dir():
        raise UserError(f"--json={values.json} is in a folder that does not exist; make it or name another")
    with joined(values) as host, host.interrupt.nothing_to_lose():
        _evaluate(words[0], values)


def _define(values: flags.FlagValues) -> None:
    text = {
        "workdir": "Folder of a run, in place of WEIGHTS: its last checkpoint on its recipe's images.",
        "data": "Images, by the names of config.data.name: digits, folder:/path, a TFDS data set …; "
        "by default those of the weights' recipe.",
        "data_dir": "Where TFDS keeps its data.",
        "split": "Of the images; 'all' takes every image of a folder without split folders.",
        "checkpoint": "Of a run: 'best', 'latest' or a step; by default the best, with --workdir the latest.",
        "json": "File for all of it: every class, the calibration, the confusions.",
    }
    for name, about in text.items():
        flags.DEFINE_string(name, None, about, flag_values=values)
    about = "Images a step, all replicas together."
    flags.DEFINE_integer("batch", None, about, 1, flag_values=values)
    about = "Height and width in pixels; by default the weights'."
    flags.DEFINE_integer("image_size", None, about, 1, flag_values=values)
    about = "Evaluate each image and its mirror image; by default as the recipe has it."
    flags.DEFINE_bool("flip", None, about, flag_values=values)
    flags.DEFINE_bool("raw", False, "Take the raw weights, not the averaged ones.", flag_values=values)
    define_hosts(values)


def _evaluate(path: str, values: Any) -> None:
    from efficientnet_pod.evaluate.calibration import Calibration
    from efficientnet_pod.evaluate.confusions import Findings
    from efficientnet_pod.evaluate.evaluate import evaluate_checkpoint, evaluate_weights
    from efficientnet_pod.evaluate.overrides import Asked
    from efficientnet_pod.pod import hosts
    from efficientnet_pod.run.identity import identity_of

    asked = Asked(**{field.name: values[field.name].value for field in dataclasses.fields(Asked)})
    trained, config, facts = _opened(path, values, asked) if hosts.index() == 0 else (None, {}, {})
    config, facts = hosts.from_first("config", [config, facts])
    run = _run_of(config, asked, facts)
    _compare(run, facts, path)
    hosts.agree("the run", identity_of(run))
    findings, calibration = Findings(run.plan.num_classes), Calibration()

    def collect(*batch: Any) -> None:
        findings.add(*batch)
        calibration.add(*batch)

    if facts["checkpoint"]:
        from efficientnet_pod.workdir.workdir import Workdir

        workdir, which = facts["checkpoint"]
        step, rates = evaluate_checkpoint(run, Workdir(workdir), which, raw=values.raw, collect=collect)
        facts["origin"] = {"source": workdir, "step": step, "raw": values.raw}
    else:
        rates = evaluate_weights(run, trained.variables if trained else None, collect=collect)
    pairs = findings.merged(rates.images)
    try:
        bins = calibration.merged(rates.images)
    except ValueError as error:
        raise UserError(f"{error}: '{path}' is damaged, or made for images of another size") from error
    if hosts.index() == 0:
        _report(run, facts, path, rates, pairs, bins, values.json)


def _opened(
    path: str, values: Any, asked: "Asked"
) -> "tuple[Trained | None, dict[str, Any], dict[str, Any]]":
    """Returns weights that are not a run's, the config that evaluates them, what every host must know."""
    from efficientnet_pod.evaluate.overrides import config_of
    from efficientnet_pod.models.registry import network_named
    from efficientnet_pod.weights.open import checkpoint_at, open_weights
    from efficientnet_pod.workdir.workdir import Workdir

    which = values.checkpoint or ("latest" if values.workdir is not None else "best")
    found = (Workdir(path), which) if values.workdir is not None else checkpoint_at(path, which)
    if found:
        workdir = found[0]
        config = asked.applied(workdir.read("config.json"))
        names = workdir.read("data.json")["class_names"] if (workdir.path / "data.json").exists() else None
        facts = {
            "title": network_named(config["model"]["name"]).title,
            "checkpoint": (str(workdir.path), found[1]),
            "num_classes": len(names) if names else None,
            "class_names": names or (),
        }
        return None, config, facts
    trained = open_weights(path, which=which, raw=values.raw)
    if not asked.data:
        raise UserError(
            f"'{path}' comes without a recipe that names images; add --data, e.g. --data=folder:/photos"
        )
    facts = {
        "title": trained.title,
        "checkpoint": None,
        "num_classes": trained.num_classes,
        "class_names": trained.class_names,
        "origin": dict(trained.origin),
    }
    return trained, asked.applied(config_of(trained)), facts


def _run_of(config: dict[str, Any], asked: "Asked", facts: dict[str, Any]) -> "Run":
    from efficientnet_pod.evaluate.overrides import PER_REPLICA
    from efficientnet_pod.pod import runtime
    from efficientnet_pod.recipe.reading import read_recipe
    from efficientnet_pod.run.run import run_on

    started = runtime.start(config["platform"], config["cpu_replicas"])
    replicas = len(started.devices)
    if asked.batch and asked.batch % replicas:
        raise UserError(f"--batch={asked.batch} is not a multiple of the {replicas} replicas; make it one")
    if not asked.batch and not facts["checkpoint"]:
        config = config | {"global_batch": PER_REPLICA * replicas}
    return run_on(started, read_recipe(config))


def _compare(run: "Run", facts: dict[str, Any], path: str) -> None:
    """Refuses images of other classes than the weights', and warns where they are called differently."""
    from efficientnet_pod.evaluate.overrides import compare_classes
    from efficientnet_pod.pod import hosts

    source, warnings = run.source, [*run.source.warnings]
    if facts["num_classes"]:
        warning = compare_classes(
            facts["num_classes"], facts["class_names"], source.class_names, weights=path, data=source.name
        )
        warnings += [warning] if warning else []
    data = run.plan.recipe.data
    is_flat = data.train_split == data.eval_split and source.num_train != source.num_eval
    if data.name.startswith("folder:") and is_flat:
        warnings.append(
            f"'{source.name}' has no split folders: a fixed tenth of each class is evaluated, "
            f"{source.num_eval:,} images; --split=all takes all of them"
        )
    if hosts.index() == 0:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)


def _report(
    run: "Run", facts: dict[str, Any], path: str, rates: Any, pairs: Any, bins: Any, json_file: str | None
) -> None:
    """Prints what was found, and writes it where that was asked for."""
    from etils import epath
    from rich.console import Console

    from efficientnet_pod.evaluate.summary import Evaluation
    from efficientnet_pod.weights.classes import readable
    from efficientnet_pod.workdir.files import cannot_write, write_json

    plan, origin = run.plan, facts["origin"]
    evaluation = Evaluation(
        weights={"path": path, "title": facts["title"], "network": plan.recipe.model.name, "origin": origin},
        settings=_settings(run),
        class_names=readable(run.source.class_names),
        rates=rates,
        pairs=pairs,
        bins=bins,
    )
    if json_file:
        file = epath.Path(json_file)
        try:
            write_json(file, evaluation.as_json())
        except OSError as error:
            raise UserError(cannot_write(file, error)) from error
    at = f"step {origin['step']:,}: " if facts["checkpoint"] else ""
    print(
        f"{at}top-1 {rates.top1:.2%}, top-5 {rates.top5:.2%}, loss {rates.loss:.4f} "
        f"of {rates.images:,} images\n"
    )
    evaluation.print(Console(highlight=False, soft_wrap=True))
    if json_file:
        print(f"\nall of it is in {json_file}")


def _settings(run: "Run") -> dict[str, Any]:
    plan, data = run.plan, run.plan.recipe.data
    crop = "central crops" if data.augment == "inception_crop" else "whole images"
    crop = "crops in rectangles" if data.eval_crop == "rectangular" else crop
    mirrored = ", each and its mirror image" if plan.recipe.eval_flip else ""
    return {
        "data": run.source.name,
        "seen": f"{crop} of {plan.image_size} px{mirrored}",
        "split": data.eval_split,
        "classes": plan.num_classes,
        "image_size": plan.image_size,
        "augment": data.augment,
        "resize": data.resize,
        "eval_crop": data.eval_crop,
        "flip": plan.recipe.eval_flip,
        "batch": plan.eval_batch,
        "replicas": plan.num_replicas,
        "hosts": plan.num_hosts,
        "compute_dtype": plan.compute_dtype,
        "link_dtype": plan.link_dtype,
    }
