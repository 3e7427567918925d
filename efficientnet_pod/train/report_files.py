"""The files that a run writes for its report page besides its metrics; a failure is only a warning."""

from collections.abc import Callable

import jax

from efficientnet_pod.evaluate.confusions import Confusions, predictions_of
from efficientnet_pod.optim.optimizers import treatment
from efficientnet_pod.pod import hosts
from efficientnet_pod.run.metrics import Rates
from efficientnet_pod.run.run import Run
from efficientnet_pod.workdir.mesh import write_mesh
from efficientnet_pod.workdir.predictions import write_predictions
from efficientnet_pod.workdir.trust_ratios import TrustRatiosLog
from efficientnet_pod.workdir.workdir import Workdir


class ReportFiles:
    """``mesh.json``, ``trust_ratios.jsonl`` and ``predictions.json`` of a run; only host 0 writes."""

    def __init__(self, run: Run, workdir: Workdir, *, resumed_step: int, warn: Callable[[str], None]):
        """Writes the mesh and opens the log of trust ratios."""
        self._run, self._workdir, self._warn = run, workdir, warn
        self._ratios: TrustRatiosLog | None = None
        if hosts.index() == 0:
            write_mesh(workdir, run.mesh.devices, warn=warn)
            treatments = treatment(run.plan.recipe.optimizer, run.variables["params"])
            adapted = [tensor.path for tensor in treatments if tensor.adapted]
            self._ratios = TrustRatiosLog(workdir, adapted, resumed_step=resumed_step, warn=warn)

    def trust_ratios(self, step: int, ratios: jax.Array | None) -> None:
        """Adds the trust ratios of an update, which are read from the device here; None adds nothing."""
        if self._ratios and ratios is not None:
            self._ratios.write(step, ratios)

    def rewind(self, step: int) -> None:
        """Drops the trust ratios of the steps after ``step``."""
        if self._ratios:
            self._ratios.drop_after(step)

    def predictions(self, step: int, confusions: Confusions, rates: Rates) -> None:
        """Writes the predictions of an evaluation on all hosts; every host calls it."""
        pairs = confusions.merged(rates.images)
        if pairs is not None:
            predictions = predictions_of(
                pairs, confusions.samples(), step=step, class_names=self._run.images.class_names
            )
            write_predictions(self._workdir, predictions, warn=self._warn)

    def flush(self) -> None:
        """Writes what is held back."""
        if self._ratios:
            self._ratios.flush()
