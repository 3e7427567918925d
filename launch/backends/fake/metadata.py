"""The metadata server of the fake service's machines, which tells each worker its place."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ATTRIBUTES = "/computeMetadata/v1/instance/attributes/"


class MetadataServer:
    """Answers the workers of one slice, each under its own path."""

    def __init__(
        self, accelerator_type: str, hosts: int, *, group: bool = False, ahead: dict[int, float] | None = None
    ):
        """Starts to listen on 127.0.0.1.

        Args:
          accelerator_type: what the machines are.
          hosts: their number.
          group: whether they have their number in ``tpu-env`` only, as in an instance group.
          ahead: seconds by which the clocks of some workers are ahead: they are answered with earlier times.
        """
        peers = ",".join(["127.0.0.1"] * hosts)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                worker, _, attribute = self.path.lstrip("/").partition(_ATTRIBUTES)
                answers = {} if group else {"agent-worker-number": worker}
                answers |= {
                    "worker-network-endpoints": peers,
                    "accelerator-type": accelerator_type,
                    "tpu-env": f"ACCELERATOR_TYPE: '{accelerator_type}'\nWORKER_ID: '{worker}'\n"
                    f"TPU_WORKER_ID: '{worker}'\n",
                }
                is_ours = self.headers.get("Metadata-Flavor") == "Google"
                is_known = is_ours and worker.isdigit() and attribute in answers
                self.send_response(200 if is_known else 404)
                self.send_header("Metadata-Flavor", "Google")
                self.end_headers()
                if is_known:
                    self.wfile.write(answers[attribute].encode())

            def date_time_string(self, timestamp: float | None = None) -> str:
                """Returns the time as the worker is told it."""
                worker = self.path.split("/")[1]
                seconds = (ahead or {}).get(int(worker), 0.0) if worker.isdigit() else 0.0
                return super().date_time_string((timestamp or time.time()) - seconds)

            def log_message(self, format: str, *args: object) -> None:
                """Writes no log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def url(self, worker: int) -> str:
        """Returns the address that a worker uses for ``http://metadata.google.internal/computeMetadata/v1``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{worker}/computeMetadata/v1"

    def close(self) -> None:
        """Stops listening; may be called again."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
