"""TensorBoard's events of a run, which repeat its metrics."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from efficientnet_pod.workdir.files import is_remote
from efficientnet_pod.workdir.json_lines import Row


def scalars_of(row: Row) -> dict[str, float]:
    """Returns the scalars of a row of metrics by the names that viewers show, such as ``train/loss``."""
    return {f"{row['split']}/{name}": row[name] for name in row if name not in ("step", "split")}


class TensorBoardEvents:
    """A file of TensorBoard events, one for each start.

    It begins with the mark of a start: TensorBoard then drops the steps from ``first_step`` on that it has
    read in earlier files. The events repeat ``metrics.jsonl``, so a run goes on without them where they
    cannot be written.
    """

    def __init__(self, folder: str, *, first_step: int, warn: Callable[[str], None]):
        """Opens a file in the folder; ``warn`` gets a line when nothing more is written."""
        # Takes seconds where nothing else has imported TensorFlow.
        from tensorboard.compat.proto import event_pb2
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        proto: Any = event_pb2  # its names exist at run time only
        self._event, self._scalar, self._warn = proto.Event, scalar_pb, warn
        self._writer: EventFileWriter | None = None
        self._is_remote = is_remote(folder)
        with self._may_fail():
            self._writer = EventFileWriter(folder)
            mark = proto.SessionLog(status=proto.SessionLog.START)
            self._writer.add_event(proto.Event(wall_time=time.time(), step=first_step, session_log=mark))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds the scalars of a step; on a local disk they can be seen at once."""
        with self._may_fail():
            if self._writer:
                now = time.time()
                for name, value in scalars.items():
                    summary = self._scalar(name, value)
                    self._writer.add_event(self._event(wall_time=now, step=step, summary=summary))
                if not self._is_remote:  # where each flush would send the whole file; it does, after 120 s
                    self._writer.flush()

    def close(self) -> None:
        """Writes the events that are still in memory."""
        with self._may_fail():
            if self._writer:
                self._writer.close()

    @contextmanager
    def _may_fail(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # TensorFlow's, of any kind of file system
            self._writer = None
            why = " ".join(str(error).split())
            self._warn(f"warning: TensorBoard events are no longer written: {why}")
