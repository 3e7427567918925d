"""The workdir of a run: its folder, and its files that hold one table or one text."""

from typing import Any

from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.files import absolute, require_written, write_json, write_whole
from efficientnet_pod.workdir.values import parse_table


class Workdir:
    """The folder of one run. Only one host calls the writing methods, or reads while they may be called."""

    def __init__(self, path: epath.PathLike):
        """Names the folder; nothing is touched. Raises as :func:`.absolute`."""
        self.path = absolute(path)

    @property
    def checkpoints(self) -> epath.Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def programs(self) -> epath.Path:
        """Folder of the compiled programs."""
        return self.path / "programs"

    def read(self, name: str) -> dict[str, Any]:
        """Returns the table in a JSON file.

        Raises:
          UserError: there is no such file, or it is damaged.
        """
        file = self.path / name
        if not file.exists():
            raise UserError(f"no {name} in '{self.path}'; --workdir must name the folder of a run")
        table = parse_table(file.read_bytes())
        if table is None:
            raise UserError(
                f"{name} in '{self.path}' is damaged: it is not a table in JSON; restore it or choose "
                "another --workdir"
            )
        return table

    def write(self, name: str, table: dict[str, Any]) -> None:
        """Writes a JSON file, whole or not at all; secrets in its strings are blanked.

        Raises:
          RunError: it cannot be written.
        """
        with require_written(self.path / name):
            write_json(self.path / name, table, indent=2)

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file, whole or not at all.

        Raises:
          RunError: it cannot be written.
        """
        with require_written(self.path / name):
            write_whole(self.path / name, text.encode())

    def summary(self) -> dict[str, Any] | None:
        """Returns the table in ``summary.json``; None if there is none or it is damaged."""
        try:
            return self.read("summary.json")
        except UserError:
            return None
