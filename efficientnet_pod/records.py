"""The files of a workdir: config, plan, metrics and summary, written by host 0."""

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from efficientnet_pod.errors import UserError

# What may change between two starts of one run: it does not change its numbers, or only those of bad images.
FREE_FIELDS = frozenset(
    {
        "platform",
        "log_steps",
        "keep_checkpoints",
        "checkpoint_minutes",
        "on_non_finite",
        "stuck_seconds",
        "data.data_dir",
        "data.skip_corrupt",
    }
)


class Workdir:
    """The folder of one run. Every host may read; only one calls the writing methods."""

    def __init__(self, path: epath.PathLike):
        """Names the folder; nothing is touched."""
        given = epath.Path(path)
        # Orbax refuses a relative folder; `absolute` would take gs:// for one.
        self.path = given if given.is_absolute() else given.absolute()

    @property
    def checkpoints(self) -> epath.Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def programs(self) -> epath.Path:
        """Where the compiled programs are."""
        return self.path / "programs"

    def claim(self, config: dict[str, Any]) -> None:
        """Makes the folder and stores the config, or checks that the one stored is the same.

        Raises:
          UserError: the folder cannot be written, or belongs to another config.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"workdir '{self.path}' cannot be written: {error.strerror or error}; choose another"
            ) from error
        if (self.path / "config.json").exists():
            stored = self.read("config.json")
            differing = differences(stored, config)
            if any(name not in dict(_flatten(stored)) for name, _, _ in differing):
                raise UserError(
                    f"workdir '{self.path}' was made by another version, whose recipes have no "
                    f"config.{differing[0][0]}; choose another --workdir"
                )
            if differing:
                shown = ", ".join(
                    f"config.{name} was {old!r}, is {new!r}" for name, old, new in differing[:5]
                )
                more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
                raise UserError(
                    f"workdir '{self.path}' belongs to another config: {shown}{more}; "
                    "choose another --workdir or restore these fields"
                )
        self.write("config.json", config)

    def read(self, name: str) -> Any:
        """Returns the contents of a JSON file.

        Raises:
          UserError: there is none.
        """
        file = self.path / name
        if not file.exists():
            raise UserError(f"no {name} in '{self.path}'; --workdir must name the folder of a run")
        return json.loads(file.read_text())

    def write(self, name: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        scratch = self.path / f".{name}.partial"
        scratch.write_text(json.dumps(value, indent=2) + "\n")
        scratch.replace(self.path / name)

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the rows of ``metrics.jsonl``; a last line torn by a kill is left out."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return list(_rows(lines))


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and to TensorBoard's events."""

    def __init__(self, workdir: Workdir, *, resumed_step: int):
        """Opens both; rows of steps after ``resumed_step``, which will be made again, are dropped."""
        self._file = workdir.path / "metrics.jsonl"
        self.rows = [row for row in workdir.metrics() if row["step"] <= resumed_step]
        self._file.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        from clu import metric_writers  # imports TensorFlow, which takes seconds

        self._events = metric_writers.SummaryWriter(str(workdir.path / "tensorboard"))

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row with ``step``, ``split`` and scalars; it is on disk when this returns."""
        self.rows.append(row)
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        scalars = {
            f"{row['split']}/{name}": value for name, value in row.items() if name not in ("step", "split")
        }
        self._events.write_scalars(row["step"], scalars)

    def close(self) -> None:
        """Flushes the events."""
        self._events.close()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Returns (dotted field, old value, new value) where two configs differ in what decides the numbers."""
    a, b = dict(_flatten(old)), dict(_flatten(new))
    names = sorted((a.keys() | b.keys()) - FREE_FIELDS)
    return [(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)]


def _flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _rows(lines: list[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines) - 1:
                raise
