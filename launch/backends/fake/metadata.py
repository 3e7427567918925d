"""Owns the metadata server of the fake service's machines, which tells each worker where it is."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ATTRIBUTES = "/computeMetadata/v1/instance/attributes/"


class MetadataServer:
    """Answers the workers of one slice, each under a path of its own."""

    def __init__(self, accelerator_type: str, hosts: int, *, group: bool = False):
        """Listens on 127.0.0.1 at once.

        Args:
          accelerator_type: of the slice.
          hosts: of it.
          group: whether it is an instance group, whose machines have their number in ``tpu-env`` alone.
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
                is_known = (
                    worker.isdigit()
                    and attribute in answers
                    and self.headers.get("Metadata-Flavor") == "Google"
                )
                self.send_response(200 if is_known else 404)
                self.send_header("Metadata-Flavor", "Google")
                self.end_headers()
                if is_known:
                    self.wfile.write(answers[attribute].encode())

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def url(self, worker: int) -> str:
        """Returns what stands for ``http://metadata.google.internal/computeMetadata/v1`` of a worker."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{worker}/computeMetadata/v1"

    def close(self) -> None:
        """Listens no more."""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
