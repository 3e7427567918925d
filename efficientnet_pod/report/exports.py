"""A run in the formats of two benchmarks: TSV and JSON of DAWNBench, the log of MLPerf."""

from collections.abc import Iterator
from typing import Any

from efficientnet_pod.pod.prices import price_of
from efficientnet_pod.pod.terminal import plural, significant
from efficientnet_pod.pod.version import VERSION
from efficientnet_pod.report.figures import cost_of, evaluations, peak
from efficientnet_pod.report.head import description
from efficientnet_pod.report.records import RunRecords
from efficientnet_pod.report.state import device_of, state_of
from efficientnet_pod.report.words import NOT_RECORDED, joined, network_title
from efficientnet_pod.workdir.journal import starts
from efficientnet_pod.workdir.values import dig, number, table_of, time_of, to_json, whole

# Keys of MLPerf's resnet benchmark, which repeats some settings under a name for LARS.
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


def dawnbench_tsv(records: RunRecords) -> str:
    """Returns a line for each evaluation: epoch, hours of training and evaluation, top-1 and top-5 in %.

    Source: the instructions of stanford-futuredata/dawn-bench-entries.
    """
    lines = ["epoch\thours\ttop1Accuracy\ttop5Accuracy"]
    for evaluation in evaluations(records):
        seconds, top1, top5 = evaluation.with_evaluation, evaluation.top1, evaluation.top5
        if seconds is None or top1 is None or top5 is None:
            continue
        values = (evaluation.epoch, seconds / 3600, top1 * 100, top5 * 100)
        lines.append("\t".join(f"{value:.10g}" for value in values))
    return "\n".join(lines) + "\n"


def dawnbench_json(records: RunRecords) -> str:
    """Returns the description of an entry; author and e-mail are left for the sender to add.

    ``misc`` has the hours to peak accuracy by both readings of the rules.

    Source: the instructions of stanford-futuredata/dawn-bench-entries.
    """
    cost, best = cost_of(records), peak(evaluations(records))
    devices, kind = device_of(records)
    ended = time_of(records.journal[-1].get("time")) if records.journal else None
    versions = table_of(records.summary.get("versions"))
    model = dig(records.config, "model.name")
    entry: dict[str, Any] = {
        "version": "v1.0",
        "author": "",
        "authorEmail": "",
        "framework": f"JAX {versions.get('jax', '')}".strip() + f", efficientnet-pod {VERSION}",
        "model": network_title(model) if model else "",
        "hardware": _hardware(records, devices, kind),
        "timestamp": f"{ended:%Y-%m-%d}" if ended else "",
        "misc": {
            "run": description(records),
            "peakTop1Accuracy": best.top1 * 100 if best and best.top1 is not None else None,
            "hoursToPeak": _hours(best.with_evaluation if best else None),
            "hoursToPeakWithoutEvaluation": _hours(best.training_only if best else None),
            "hoursOfCompilation": _hours(number(records.summary.get("compile_seconds"))),
        },
    }
    if cost.chip and cost.chips is not None and (usd := price_of(cost.chip, cost.chips)):
        entry["costPerHour"] = usd.least * cost.chips  # in the cheapest region
    return to_json(entry, indent=2) + "\n"


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600


def _hardware(records: RunRecords, devices: int | None, kind: str | None) -> str:
    chips, hosts = cost_of(records).chips, whole(records.plan.get("num_hosts"))
    return joined(
        f"{devices:,} devices of kind {kind or 'unknown'}" if devices else NOT_RECORDED,
        f"{significant(chips, 6)} chips" if devices and chips not in (None, devices) else None,
        plural(hosts, "host") if hosts else None,
    )


def mlperf_log(records: RunRecords) -> str:
    """Returns the run as lines of an MLPerf training log, after the example of its resnet benchmark.

    ``time_ms`` follows the clock of the run, which stops between two starts and during compilation. It begins
    with the first start in the journal, or at 0 without one.

    Source: the keys of mlcommons/logging, ``mllog/constants.py``.
    """
    return "".join(f":::MLLOG {to_json(event)}\n" for event in _mlperf_events(records))


def _mlperf_events(records: RunRecords) -> Iterator[dict[str, Any]]:
    began = next((start.began for start in starts(records.journal or ()) if start.began), None)
    origin = began.timestamp() * 1000 if began else 0.0

    def event(
        key: str, value: Any, seconds: float, kind: str = "POINT_IN_TIME", **more: Any
    ) -> dict[str, Any]:
        return {
            "namespace": "",
            "time_ms": round(origin + seconds * 1000),
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
    for evaluation in evaluations(records):
        end, end_epoch = evaluation.with_evaluation, evaluation.epoch
        if end is None:
            continue
        begin = max(end - (evaluation.seconds or 0.0), clock)
        block = {"first_epoch_num": epoch, "epoch_count": end_epoch - epoch}
        yield event("block_start", None, clock, "INTERVAL_START", **block)
        yield event("epoch_start", None, clock, "INTERVAL_START", epoch_num=epoch)
        yield event("epoch_stop", None, begin, "INTERVAL_END", epoch_num=end_epoch)
        yield event("eval_start", None, begin, "INTERVAL_START", epoch_num=end_epoch)
        yield event("eval_accuracy", evaluation.top1, end, epoch_num=end_epoch)
        yield event("eval_stop", None, end, "INTERVAL_END", epoch_num=end_epoch)
        yield event("block_stop", None, end, "INTERVAL_END", **block)
        epoch, clock = end_epoch, end
    kind = state_of(records).kind
    if kind != "in progress":
        status = "success" if kind == "complete" else "aborted"
        yield event("run_stop", None, clock, "INTERVAL_END", status=status)
