"""What a run writes down for its report page beside its metrics; nothing of it can end the run."""

from collections.abc import Callable
from typing import Any

from efficientnet_pod.evaluate.confusions import Findings, write_predictions
from efficientnet_pod.optim import treatment
from efficientnet_pod.run.metrics import Rates
from efficientnet_pod.run.run import Run
from efficientnet_pod.workdir.json_lines import warned, write_json
from efficientnet_pod.workdir.trust_ratios import TrustRatiosLog
from efficientnet_pod.workdir.workdir import Workdir


class Recording:
    """``mesh.json``, ``trust_ratios.jsonl`` and ``predictions.json`` of a run; only host 0 writes."""

    def __init__(self, run: Run, workdir: Workdir, *, resumed_step: int, report: Callable[[str], None]):
        """Writes the mesh, and opens the trust ratios, where the optimizer has any."""
        self._run, self._workdir, self._report = run, workdir, report
        self._ratios: TrustRatiosLog | None = None
        if run.runtime.host_index == 0:
            with warned(workdir.path / "mesh.json", report):
                write_json(workdir.path / "mesh.json", mesh_table(run.mesh.devices))
            optimizer, params = run.plan.recipe.optimizer, run.variables["params"]
            adapted = [each.path for each in treatment(optimizer, params) if each.adapted]
            self._ratios = TrustRatiosLog(workdir, adapted, resumed_step=resumed_step, report=report)

    def trust_ratios(self, step: int, ratios: Any | None) -> None:
        """Adds the trust ratios of an update; they are read from the device here, where they are kept."""
        if self._ratios and ratios is not None:
            self._ratios.write(step, ratios)

    def rewind(self, step: int) -> None:
        """Forgets the trust ratios of the steps after ``step``."""
        if self._ratios:
            self._ratios.drop_after(step)

    def predictions(self, step: int, findings: Findings, result: Rates) -> None:
        """Writes what an evaluation has found, of all hosts; every host calls it."""
        pairs = findings.merged(result.images)
        if pairs is not None:
            write_predictions(
                self._workdir,
                pairs,
                findings.samples(),
                step=step,
                class_names=self._run.source.class_names,
                report=self._report,
            )

    def flush(self) -> None:
        """Writes out what is held back."""
        if self._ratios:
            self._ratios.flush()


def mesh_table(devices: Any) -> dict[str, Any]:
    """Returns the BN groups of a mesh (groups, members), as ``mesh.json`` has them.

    Each device has its ``id``, and on a TPU the ``coords`` of its chip and the ``core`` on it, else None.
    """

    def table(device: Any) -> dict[str, Any]:
        coords, core = getattr(device, "coords", None), getattr(device, "core_on_chip", None)
        return {"id": device.id, "coords": None if coords is None else [*coords], "core": core}

    groups = [[table(device) for device in group] for group in devices]
    return {"bn_group_size": len(groups[0]), "groups": groups}
