"""Trackers: services of others that get the metrics of a run, Weights & Biases and MLflow."""

import os
import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from efficientnet_pod.errors import UserError, in_one_line
from efficientnet_pod.workdir.files import is_remote
from efficientnet_pod.workdir.json_lines import Row
from efficientnet_pod.workdir.redact import redact, redact_strings
from efficientnet_pod.workdir.tensorboard import scalars_of
from efficientnet_pod.workdir.values import dig, flatten
from efficientnet_pod.workdir.workdir import Workdir

FILE = "trackers.json"
_PROJECT = "efficientnet-pod"  # project of Weights & Biases, experiment of MLflow
_MOST_WAITING = 10_000  # rows that a tracker has not taken yet
_CLOSE_SECONDS = 30.0


class Tracked(NamedTuple):
    """The run as a tracker shows it.

    Attributes:
      name: name of the run.
      config: the recipe, without secrets.
      folder: local folder for files of a tracker.
      kept: id of the run that an earlier start made; None at the first.
    """

    name: str
    config: dict[str, Any]
    folder: str
    kept: str | None


class Tracker(Protocol):
    """One run of one service.

    Attributes:
      run_id: id of the run there.
      place: address of the run, for people.
    """

    run_id: str
    place: str

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds the scalars of a step."""

    def close(self, *, ended_well: bool) -> None:
        """Sends what is held back and ends this part of the run."""


class WeightsAndBiases:
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it in the workdir."""

    def __init__(self, tracked: Tracked):
        """Makes the run, or goes on with it. The package reads the key by itself; it never asks for one."""
        wandb: Any = import_module("wandb")
        is_online = os.environ.get("WANDB_MODE", "online") == "online"
        if is_online and not wandb.api.api_key:
            raise RuntimeError("there is no API key; call wandb login, or set WANDB_MODE=offline")
        self.run_id = tracked.kept or uuid.uuid4().hex[:16]
        # Nothing but the metrics and the recipe: no output, arguments, code, git or facts of the machine.
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            silent=True,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=self.run_id,
            resume="allow",
            name=tracked.name,
            dir=tracked.folder,
            config=tracked.config,
            settings=settings,
            allow_val_change=True,
        )
        self.place = str(self._run.url) if is_online else f"{tracked.folder}/wandb"
        # A run that goes back has a step twice. Its own count must grow: a field of ours is the axis.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds the scalars of a step."""
        self._run.log({"step": step, **scalars})

    def close(self, *, ended_well: bool) -> None:
        """Sends what is held back and ends this part of the run."""
        self._run.finish(exit_code=0 if ended_well else 1)


class MLflow:
    """A run of MLflow, on the server or in the store that ``MLFLOW_TRACKING_URI`` names."""

    def __init__(self, tracked: Tracked):
        """Makes the run, or goes on with it."""
        self._mlflow: Any = import_module("mlflow")
        self._client = self._mlflow.MlflowClient()
        if tracked.kept:
            self.run_id = tracked.kept
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            place = experiment.experiment_id if experiment else self._client.create_experiment(name)
            self.run_id = self._client.create_run(place, run_name=tracked.name).info.run_id
            entities = self._mlflow.entities
            fields = [entities.Param(name, str(value)[:500]) for name, value in flatten(tracked.config)]
            for begin in range(0, len(fields), 100):  # the most that a server takes at once
                self._client.log_batch(self.run_id, params=fields[begin : begin + 100])
        self.place = f"run {self.run_id} of {redact(self._mlflow.get_tracking_uri())}"

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds the scalars of a step."""
        now, kind = int(1000 * time.time()), self._mlflow.entities.Metric
        metrics = [kind(name, float(value), now, step) for name, value in scalars.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def close(self, *, ended_well: bool) -> None:
        """Ends this part of the run."""
        self._client.set_terminated(self.run_id, "FINISHED" if ended_well else "KILLED")


_KINDS: dict[str, Callable[[Tracked], Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def require_packages(names: Sequence[str]) -> None:
    """Raises UserError if the package of a tracker is not installed; imports none of them."""
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of this name, as wandb makes one, has no origin
            raise UserError(
                f"config.trackers has '{name}', whose package is not installed; "
                f"pip install 'efficientnet-pod[{name}]'"
            )


class Trackers:
    """The trackers of a run. Each has a thread of its own: a slow or broken service costs the run nothing.

    The ids of the runs are kept in ``trackers.json``, so that a later start goes on with the same ones. Any
    failure of a tracker is one warning, and it gets nothing more.
    """

    def __init__(
        self,
        names: Sequence[str],
        workdir: Workdir,
        config: dict[str, Any],
        *,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        """Begins to open the trackers of these names; ``say`` gets a line with the place of each run."""
        self._workdir, self._say, self._warn, self._lock = workdir, say, warn, threading.Lock()
        self._config = redact_strings(config)
        self._queues: dict[str, queue.Queue[tuple[int, dict[str, float]] | bool]] = {}
        self._threads: dict[str, threading.Thread] = {}
        for name in names:
            self._queues[name] = queue.Queue(_MOST_WAITING)
            thread = threading.Thread(target=self._serve, args=(name,), name=f"tracker-{name}", daemon=True)
            self._threads[name] = thread
            thread.start()

    def write(self, row: Row) -> None:
        """Gives a row of metrics to the trackers; returns at once."""
        for waiting in self._queues.values():
            if not waiting.full():  # else the service has not answered for hours
                waiting.put((row["step"], scalars_of(row)))

    def close(self, *, ended_well: bool = False) -> None:
        """Waits half a minute at most until the trackers have all rows. May be called again."""
        until = time.monotonic() + _CLOSE_SECONDS
        for name, thread in self._threads.items():
            if not self._queues[name].full():
                self._queues[name].put(ended_well)
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                seconds = f"{_CLOSE_SECONDS:.0f} s"
                self._warn(f"warning: {name} has not taken all rows in {seconds}; the rest is left out")
        self._threads = {}

    def _serve(self, name: str) -> None:
        waiting = self._queues[name]
        try:
            kept = dig(self._kept(), f"{name}.run")
            folder = str(self._workdir.path)
            if is_remote(folder):
                folder = tempfile.mkdtemp(prefix="efficientnet-pod-")
            tracker = _KINDS[name](Tracked(self._workdir.path.name, self._config, folder, kept))
            if kept != tracker.run_id:
                with self._lock:
                    self._workdir.write(FILE, self._kept() | {name: {"run": tracker.run_id}})
            self._say(f"{name} gets the metrics: {tracker.place}")
            while not isinstance(item := waiting.get(), bool):
                tracker.write(*item)
            tracker.close(ended_well=item)
        except Exception as error:
            why = redact(in_one_line(error))[:300]
            self._warn(f"warning: {name} no longer gets the metrics: {why}; the run goes on without it")
            while not isinstance(waiting.get(), bool):
                pass

    def _kept(self) -> dict[str, Any]:
        file = self._workdir.path / FILE
        return self._workdir.read(FILE) if file.exists() else {}
