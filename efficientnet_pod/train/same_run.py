"""Whether a start may go on in a workdir: its config, plan and images must be those of the earlier starts."""

import json
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from efficientnet_pod.data.class_names import pair_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.recipe.plan import OF_THE_MACHINE
from efficientnet_pod.recipe.recipe import FREE, RESOLVED, restart_fields
from efficientnet_pod.workdir import journal, mesh, metrics_log, profile, trackers, trust_ratios
from efficientnet_pod.workdir.files import make_writable, require_written
from efficientnet_pod.workdir.redact import redact_strings
from efficientnet_pod.workdir.values import flatten
from efficientnet_pod.workdir.workdir import Workdir

FREE_FIELDS = frozenset(restart_fields(FREE))
RESOLVED_FIELDS = frozenset(restart_fields(RESOLVED))

_DTYPE_FIELDS = {"compute_dtype": "model.dtype", "link_dtype": "data.link_dtype"}
# What a start leaves behind before its first row of metrics. The config goes last: without it, the next start
# would not know the others for records of a run.
_RECORDS = (
    *("plan.json", "data.json", "initial.json", "parameters.txt", "programs", "tensorboard", "wandb"),
    *(module.FILE for module in (journal, mesh, metrics_log, trackers, trust_ratios)),
    profile.FOLDER,
    "config.json",
)
_SHOWN = 5
_ABSENT = object()


class Claim:
    """A workdir that belongs to this run: no start of another run can go on in it."""

    def __init__(self, workdir: Workdir, config: dict[str, Any]):
        """Makes the folder and stores the config, or checks that the one stored is of the same run.

        Fields that depend on the machine or the images are checked by :meth:`accept`, which also stores
        permitted changes of the config. Records of another run that has left neither a checkpoint nor a row
        of metrics are set aside.

        Raises:
          UserError: the folder cannot be written, belongs to another config, or to one that cannot be read.
          RunError: the records cannot be set aside.
        """
        self._workdir, self._config = workdir, config
        self._warnings: list[str] = []
        make_writable(workdir.path)
        given = as_json(redact_strings(config))
        if not (workdir.path / "config.json").exists():
            _require_no_checkpoints(workdir, "config.json")
            workdir.write("config.json", config)
            return
        try:
            require_same_config(workdir.read("config.json"), given, workdir.path)
        except UserError as refusal:
            self._begin_again(refusal)

    def replicas(self) -> int | None:
        """Returns on how many replicas the run in the workdir is defined; None if it has left nothing yet."""
        workdir = self._workdir
        if not (workdir.path / "plan.json").exists() or not self._has_records():
            return None
        return workdir.read("plan.json").get("num_replicas")

    def accept(self, plan: dict[str, Any], data: dict[str, Any]) -> list[str]:
        """Checks that this start continues what earlier ones did, and writes ``plan.json``, ``data.json``.

        Args:
          plan: ``Plan.as_dict()``; with ``device_kind``, a change of which is warned of.
          data: ``name``, ``num_train``, ``num_eval``, ``class_names`` and ``fingerprint`` of the source.

        Returns:
          Warnings: what is not bit for bit the same on this machine, or that the run begins again.

        Raises:
          UserError: the images, the BN batch, a dtype or another number of the plan differs; nothing is
            written.
          RunError: the records of a run that begins again cannot be set aside.
        """
        try:
            self._warnings += self._compare(plan, data)
        except UserError as refusal:
            self._begin_again(refusal)
        workdir = self._workdir
        if as_json(redact_strings(self._config)) != workdir.read("config.json"):
            workdir.write("config.json", self._config)
        workdir.write("plan.json", plan)
        workdir.write("data.json", data)
        return self._warnings

    def _compare(self, plan: dict[str, Any], data: dict[str, Any]) -> list[str]:
        """Returns warnings, or raises UserError, on the differences from the start before."""
        workdir, warnings = self._workdir, []
        for name, value, require_same in (
            ("data.json", data, require_same_images),
            ("plan.json", plan, require_same_plan),
        ):
            if not (workdir.path / name).exists():
                _require_no_checkpoints(workdir, name)
                continue
            stored, given = workdir.read(name), as_json(redact_strings(value))
            try:
                require_same(stored, given, workdir.path)
                warnings += machine_warnings(stored, given)
            except (KeyError, TypeError) as error:
                raise UserError(
                    f"{name} in '{workdir.path}' was written by another version; choose another --workdir"
                ) from error
        return warnings

    def _has_records(self) -> bool:
        """Returns whether there is a checkpoint or a row of metrics."""
        return _has_checkpoints(self._workdir) or bool(metrics_log.read_metrics(self._workdir))

    def _begin_again(self, refusal: UserError) -> None:
        """Sets the records aside and stores the config; raises the refusal where there is something to keep.

        That is a checkpoint, a row of metrics, or a ``config.json`` which is not of a run.
        """
        workdir = self._workdir
        is_of_a_run = {"model", "data"} <= workdir.read("config.json").keys()
        if not is_of_a_run or self._has_records():
            raise refusal
        aside = workdir.path / f"set-aside-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        with require_written(aside):
            aside.mkdir()
            for record in [workdir.path / name for name in _RECORDS]:
                if record.exists():
                    record.rename(aside / record.name)
        workdir.write("config.json", self._config)
        self._warnings.append(
            "the run before this one left neither a checkpoint nor a row of metrics; this one begins anew, "
            f"and the other's records are in {aside.name}"
        )


def _has_checkpoints(workdir: Workdir) -> bool:
    return workdir.checkpoints.exists() and any(workdir.checkpoints.iterdir())


def _require_no_checkpoints(workdir: Workdir, name: str) -> None:
    if _has_checkpoints(workdir):
        raise UserError(
            f"workdir '{workdir.path}' has checkpoints and no {name}, which names the run they belong to; "
            "restore it or choose another --workdir"
        )


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (dotted field, old value, new value) for each difference that changes the numbers of a run.

    Both configs are as JSON has them. 1 and 1.0 are the same number; True is not 1. A missing field is
    ``absent``.
    """
    return [
        difference
        for difference in _differences(old, new)
        if difference[0] not in FREE_FIELDS and difference[0] not in RESOLVED_FIELDS
    ]


def require_same_config(old: dict[str, Any], new: dict[str, Any], workdir: object) -> None:
    """Raises UserError, with the first fields that differ, if two configs do not belong to one run."""
    differing = config_differences(old, new)
    # The phases of a config are named by its user; all other fields it must have.
    unknown = [name for name, was, _ in differing if was == "absent" and not name.startswith("phases.")]
    if unknown:
        raise UserError(
            f"workdir '{workdir}' was made by another version, whose recipes have no config.{unknown[0]}; "
            "choose another --workdir"
        )
    if differing:
        shown = ", ".join(f"config.{name} was {was}, is {now}" for name, was, now in differing[:_SHOWN])
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"workdir '{workdir}' belongs to another config: {shown}{more}; "
            "choose another --workdir or restore these fields"
        )


def require_same_images(old: dict[str, Any], new: dict[str, Any], workdir: object) -> None:
    """Raises UserError if the images are not those that the run began with.

    Both tables hold ``name``, ``num_train``, ``num_eval``, ``class_names`` and ``fingerprint``. The name may
    change if both have the same fingerprint: the data was moved.
    """

    def refuse(difference: str) -> UserError:
        return UserError(
            f"the images are not those of the run in '{workdir}': {difference}; "
            f"give it the data it began with (--config.data.name={old['name']}) or choose another --workdir"
        )

    was, now = list(old["class_names"]), list(new["class_names"])
    if was != now:
        label = next((i for i, pair in enumerate(zip(was, now, strict=False)) if pair[0] != pair[1]), None)
        counts = f"{len(was):,} classes, now {len(now):,}" if len(was) != len(now) else ""
        first = ""
        if label is not None:
            first = "class {} was {}, is {}".format(label, *pair_of(was[label], now[label]))
        raise refuse(" and ".join(filter(None, (counts, first))))
    for name, images in (("num_train", "training"), ("num_eval", "evaluation")):
        if old[name] != new[name]:
            raise refuse(f"{old[name]:,} {images} images, now {new[name]:,}")
    if old["fingerprint"] and new["fingerprint"]:
        if old["fingerprint"] != new["fingerprint"]:
            raise refuse("the names of the files or the numbers of their records differ")
    elif old["name"] != new["name"]:
        raise refuse(f"config.data.name was '{old['name']}', is '{new['name']}'")


def require_same_plan(old: dict[str, Any], new: dict[str, Any], workdir: object) -> None:
    """Raises UserError if two plans differ in more than the machine.

    Both are ``Plan.as_dict()`` as JSON has it. The message names the field of the config behind a number.
    """
    for name, was, now in _differences(_of_the_run(old), _of_the_run(new)):
        last = name.rpartition(".")[2]
        if last == "bn_batch":
            raise UserError(_other_bn_batch(old, new, workdir))
        if last in _DTYPE_FIELDS:
            field = _DTYPE_FIELDS[last]
            raise UserError(
                f"{last} of the run in '{workdir}' was {was[1:-1]}, would be {now[1:-1]} here; "
                f"set --config.{field}={was[1:-1]}"
            )
        raise UserError(
            f"the plan of the run in '{workdir}' had {name}={was}, would have {now}; go on with the version "
            "and data it began with, or choose another --workdir"
        )


def machine_warnings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a sentence for each change of machine since the last start: what is then not bit for bit equal.

    ``old`` is the plan of the last start, which need not be the first one.
    """
    only_sums = "sums run in another order; all else is as it was"
    consequences = {
        "num_replicas": "its dropout and stochastic-depth masks, drawn per replica, are others, and sums run "
        "in another order; of record files, which are shared out by replica, the order of the images may "
        "change, and the epoch under way repeat or miss some; it will not be bit for bit what it would have "
        "been",
        "num_devices": only_sums,
        "num_hosts": only_sums,
        "device_kind": "sums run in another order; it will not be bit for bit what it would have been",
    }
    nouns, warnings = {"num_replicas": "replica", "num_devices": "device", "num_hosts": "host"}, []
    if old.get("num_replicas") != new.get("num_replicas"):
        del consequences["num_devices"]  # it has fewer
    for name, consequence in consequences.items():
        if name in old and name in new and old[name] != new[name]:
            pair = old[name], new[name]
            before, now = (plural(value, nouns[name]) for value in pair) if name in nouns else pair
            warnings.append(f"the start before was on {before}, this one is on {now}: {consequence}")
    return warnings


def as_json(value: Any) -> Any:
    """Returns the value as it is after it was written to JSON and read: tuples are lists."""
    return json.loads(json.dumps(value))


def _of_the_run(plan: dict[str, Any]) -> dict[str, Any]:
    """Returns the plan without the numbers that follow from the machine; phases under their names."""
    kept = {name: value for name, value in plan.items() if name not in OF_THE_MACHINE and name != "phases"}
    return kept | {"phases": {phase["name"]: _of_the_run(phase) for phase in plan.get("phases", ())}}


def _other_bn_batch(old: dict[str, Any], new: dict[str, Any], workdir: object) -> str:
    def group_size(plan: dict[str, Any]) -> int:
        return plan["bn_batch"] // plan["per_replica_batch"]

    def shown(plan: dict[str, Any]) -> str:
        return f"{plural(group_size(plan), 'replica')} of {plan['per_replica_batch']:,}"

    groups = old["num_replicas"] // group_size(old)
    wanted, rest = divmod(new["num_replicas"], groups)
    remedy = (
        f"keep its replicas: --config.replicas={old['num_replicas']} --config.bn_group_size={group_size(old)}"
        if rest
        else f"set --config.bn_group_size={wanted}"
    )
    return (
        f"BN batch of the run in '{workdir}' was {old['bn_batch']:,} images ({shown(old)}), would be "
        f"{new['bn_batch']:,} ({shown(new)}) on {plural(new['num_replicas'], 'replica')}; {remedy}"
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    a, b = dict(flatten(old)), dict(flatten(new))
    pairs = [(name, a.get(name, _ABSENT), b.get(name, _ABSENT)) for name in [*a, *(b.keys() - a.keys())]]
    return [
        (name, _shown(was), _shown(now))
        for name, was, now in sorted(pairs, key=itemgetter(0))
        if not _same(was, now)
    ]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else repr(value)
