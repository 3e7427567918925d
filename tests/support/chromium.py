"""A headless Chromium, driven through a pipe: opens a file, says what it asked for and complained about."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --remote-debugging-pipe"
).split()
_SECONDS = 60


def find() -> str | None:
    """Returns the path of a Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Seen:
    """What a page looked like, asked for and complained about."""

    requests: list[str]
    complaints: list[str]
    width: int  # of all it has, in CSS pixels
    shown: int  # of the window
    png: bytes
    text: str


class Chromium:
    """A browser process. A context manager that ends it."""

    def __init__(self, path: str):
        self._path = path
        self._sent = 0
        self._waiting = b""
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> "Chromium":
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (their_in, self._out), (self._in, their_out) = os.pipe(), os.pipe()
        # The browser listens on 3 and talks on 4; these may be in use, hence numbers above both.
        theirs = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (their_in, their_out)]
        command = [self._path, *FLAGS, f"--user-data-dir={self._home.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}', "bash", *command],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (their_in, their_out, *theirs):
            os.close(each)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._home.cleanup()

    def open(self, file: Path, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Seen:
        """Returns what a file looks like in all its length, in a window of a size, ``light`` or ``dark``."""
        self._events = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

        def call(method: str, **parameters: Any) -> dict[str, Any]:
            return self._call(method, session, **parameters)

        for domain in ("Page", "Network", "Runtime", "Log"):
            call(f"{domain}.enable")
        call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        call("Emulation.setDeviceMetricsOverride", **size)
        call("Page.navigate", url=file.absolute().as_uri())
        self._until(lambda event: event.get("method") == "Page.loadEventFired")
        widths = "[document.documentElement.scrollWidth, innerWidth, document.body.innerText]"
        found = call("Runtime.evaluate", expression=widths, returnByValue=True)["result"]["value"]
        shot = call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        call("Page.close")
        return Seen(
            requests=[
                event["params"]["request"]["url"] for event in self._named("Network.requestWillBeSent")
            ],
            complaints=[json.dumps(event["params"]) for event in self._complaints()],
            width=found[0],
            shown=found[1],
            png=base64.b64decode(shot),
            text=found[2],
        )

    def _complaints(self) -> list[dict[str, Any]]:
        names = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event for name in names for event in self._named(name)]

    def _named(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self._events if event.get("method") == method]

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        number = self._sent
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda event: event.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _until(self, is_it: Any) -> dict[str, Any]:
        for event in self._events:
            if is_it(event):
                return event
        until = time.monotonic() + _SECONDS
        while True:
            while b"\0" not in self._waiting:
                left = until - time.monotonic()
                assert left > 0 and select.select([self._in], [], [], left)[0], "the browser says nothing"
                read = os.read(self._in, 1 << 20)
                assert read, "the browser has ended"
                self._waiting += read
            message, _, self._waiting = self._waiting.partition(b"\0")
            event = json.loads(message)
            self._events.append(event)
            if is_it(event):
                return event
