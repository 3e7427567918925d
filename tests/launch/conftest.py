"""What the launcher's tests share."""

import pytest
from launch_jobs import fake_service, wait_until, workers_of


@pytest.fixture
def service(tmp_path, monkeypatch):
    """The folder of a fake service and of its jobs; whatever the test does, nothing of it is left running."""
    monkeypatch.setenv("EFFICIENTNET_POD_JOBS", str(tmp_path / "jobs"))
    with fake_service(tmp_path / "jobs") as folder:
        yield folder
    wait_until(lambda: not workers_of(folder), 20)
