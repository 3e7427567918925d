"""Owns the records of a run in the formats of two benchmarks: DAWNBench's TSV and JSON, MLPerf's log."""

import json
from collections.abc import Iterator
from typing import Any

from efficientnet_pod import __version__
from efficientnet_pod.report.figures import cost_of, evaluations, peak
from efficientnet_pod.report.head import what_is
from efficientnet_pod.report.records import Records
from efficientnet_pod.report.state import device_of, state_of
from efficientnet_pod.report.values import figure, network_title, plural
from efficientnet_pod.workdir.journal import starts
from efficientnet_pod.workdir.values import dig, number, table_of, time_of, whole

# The names of MLPerf's resnet benchmark; of LARS it wants each setting under a name of its own.
_SETTINGS = (
    ("global_batch_size", "recipe.global_batch"),
    ("train_samples", "num_train"),
    ("eval_samples", "num_eval"),
    ("model_bn_span", "bn_batch"),
    ("opt_name", "recipe.optimizer.name"),
    ("opt_base_learning_rate", "peak_lr"),
    ("opt_learning_rate_warmup_epochs", "recipe.schedule.warmup_epochs"),
)
_LARS_SETTINGS = (
    ("lars_opt_base_learning_rate", "peak_lr"),
    ("lars_opt_learning_rate_warmup_epochs", "recipe.schedule.warmup_epochs"),
    ("lars_opt_learning_rate_decay_poly_power", "recipe.schedule.power"),
    ("lars_opt_end_learning_rate", "recipe.schedule.end_lr"),
    ("lars_opt_momentum", "recipe.optimizer.momentum"),
    ("lars_opt_weight_decay", "recipe.optimizer.weight_decay"),
    ("lars_epsilon", "recipe.optimizer.epsilon"),
)


def dawnbench_tsv(records: Records) -> str:
    """Returns a line for each evaluation: epoch, hours with those of evaluation, top-1 and top-5 in percent.

    Source: the instructions of stanford-futuredata/dawn-bench-entries.
    """
    lines = ["epoch\thours\ttop1Accuracy\ttop5Accuracy"]
    for made in evaluations(records):
        if made.with_evaluation is None or made.top1 is None or made.top5 is None:
            continue
        values = (made.epoch, made.with_evaluation / 3600, made.top1 * 100, made.top5 * 100)
        lines.append("\t".join(f"{value:.10g}" for value in values))
    return "\n".join(lines) + "\n"


def dawnbench_json(records: Records) -> str:
    """Returns the description of an entry; who sends it in must add author and e-mail.

    ``misc`` has the hours to peak accuracy as both readings of the rules have them.

    Source: the instructions of stanford-futuredata/dawn-bench-entries.
    """
    cost, best = cost_of(records), peak(evaluations(records))
    devices, kind = device_of(records)
    moments = [at for row in (records.journal or ())[-1:] if (at := time_of(row.get("time")))]
    versions = table_of(records.summary.get("versions"))
    model = dig(records.config, "model.name")
    entry: dict[str, Any] = {
        "version": "v1.0",
        "author": "",
        "authorEmail": "",
        "framework": f"JAX {versions.get('jax', '')}".strip() + f", efficientnet-pod {__version__}",
        "model": network_title(model) if model else "",
        "hardware": _hardware(records, devices, kind),
        "timestamp": f"{moments[-1]:%Y-%m-%d}" if moments else "",
        "misc": {
            "run": what_is(records),
            "peakTop1Accuracy": best.top1 * 100 if best and best.top1 is not None else None,
            "hoursToPeak": _hours(best.with_evaluation if best else None),
            "hoursToPeakWithoutEvaluation": _hours(best.training_only if best else None),
            "hoursOfCompilation": _hours(number(records.summary.get("compile_seconds"))),
        },
    }
    if cost.chip and cost.chip.usd is not None and cost.chips is not None:
        entry["costPerHour"] = cost.chip.usd * cost.chips
    return json.dumps(entry, indent=2) + "\n"


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600


def _hardware(records: Records, devices: int | None, kind: str | None) -> str:
    chips = cost_of(records).chips
    parts = [f"{devices:,} devices of kind {kind or 'unknown'}" if devices else "not recorded"]
    if devices and chips not in (None, devices):
        parts.append(f"{figure(chips, 6)} chips")
    if hosts := whole(records.plan.get("num_hosts")):
        parts.append(plural(hosts, "host"))
    return ", ".join(parts)


def mlperf_log(records: Records) -> str:
    """Returns the run as lines of an MLPerf training log, in the manner of its resnet benchmark.

    ``time_ms`` is the run's own clock, which stands still between two starts and while programs compile; it
    begins with the first start of the journal, at 0 without one.

    Source: the keys of mlcommons/logging, ``mllog/constants.py``.
    """
    return "".join(f":::MLLOG {json.dumps(event)}\n" for event in _mlperf_events(records))


def _mlperf_events(records: Records) -> Iterator[dict[str, Any]]:
    began = next((start.began for start in starts(records.journal or ()) if start.began), None)
    origin = began.timestamp() * 1000 if began else 0.0

    def event(
        key: str, value: Any, seconds: float, kind: str = "POINT_IN_TIME", **more: Any
    ) -> dict[str, Any]:
        at = round(origin + seconds * 1000)
        return {
            "namespace": "",
            "time_ms": at,
            "event_type": kind,
            "key": key,
            "value": value,
            "metadata": {"file": "efficientnet_pod/report/exports.py", "lineno": 0, **more},
        }

    optimizer = dig(records.plan, "recipe.optimizer.name")
    yield event("submission_benchmark", "efficientnet", 0)
    yield event("seed", dig(records.plan, "recipe.seed"), 0)
    for key, field in _SETTINGS + (_LARS_SETTINGS if optimizer == "lars" else ()):
        if (value := dig(records.plan, field)) is not None:
            yield event(key, value, 0)
    yield event("run_start", None, 0, "INTERVAL_START")
    epoch = clock = 0.0
    for made in evaluations(records):
        if made.with_evaluation is None:
            continue
        evaluating = max(made.with_evaluation - (made.seconds or 0.0), clock)
        block = {"first_epoch_num": epoch, "epoch_count": made.epoch - epoch}
        yield event("block_start", None, clock, "INTERVAL_START", **block)
        yield event("epoch_start", None, clock, "INTERVAL_START", epoch_num=epoch)
        yield event("epoch_stop", None, evaluating, "INTERVAL_END", epoch_num=made.epoch)
        yield event("eval_start", None, evaluating, "INTERVAL_START", epoch_num=made.epoch)
        yield event("eval_accuracy", made.top1, made.with_evaluation, epoch_num=made.epoch)
        yield event("eval_stop", None, made.with_evaluation, "INTERVAL_END", epoch_num=made.epoch)
        yield event("block_stop", None, made.with_evaluation, "INTERVAL_END", **block)
        epoch, clock = made.epoch, made.with_evaluation
    kind = state_of(records).kind
    if kind != "in progress":
        status = "success" if kind == "complete" else "aborted"
        yield event("run_stop", None, clock, "INTERVAL_END", status=status)
