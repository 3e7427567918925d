"""A workdir on gs:// against an emulator: owner, config, metrics, events, checkpoints, written and read.

TensorFlow, through which gs:// paths are read and written, has no setting for another server. It does heed
`https_proxy` and `CURL_CA_BUNDLE`: a proxy on this machine answers for Google's two storage hosts, with a
certificate made for the occasion, and hands the requests to the emulator; all others it refuses.
"""

import datetime
import http.client
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
WORKDIR = "gs://bucket/runs/digits"


def main() -> None:
    """Starts emulator, proxy and, with these in its environment, the client; exits as the client does."""
    if len(sys.argv) > 1:
        client()
        return
    from gcp_storage_emulator import server as emulator

    body = emulator.Request.data.fget

    def data(request: Any) -> Any:  # the emulator fails at empty files, which TensorFlow makes for folders
        found = body(request)
        return b"" if found is None and "media" in str(request.query) else found

    emulator.Request.data = property(data)
    server = emulator.create_server("localhost", 0, in_memory=True, default_bucket="bucket")
    server.start()
    address = f"localhost:{server._api._httpd.server_address[1]}"
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        proxy = serve(certificate, address)
        environment = os.environ | {
            "https_proxy": f"http://127.0.0.1:{proxy}",
            "CURL_CA_BUNDLE": str(certificate),
            "NO_GCE_CHECK": "true",  # there is no metadata server to ask for credentials
            "STORAGE_EMULATOR_HOST": f"http://{address}",  # of google-cloud-storage, which Orbax asks
            "GOOGLE_CLOUD_PROJECT": "test",
            "TENSORSTORE_GCS_HTTP_URL": f"http://{address}",
        }
        ended = subprocess.run([sys.executable, "-m", "benchmarks.gs_workdir", "client"], env=environment)
    server.stop()
    sys.exit(ended.returncode)


def client() -> None:
    """Does what a run does to its workdir, twice, and says what has been seen to work."""
    import jax
    import numpy as np

    from efficientnet_pod.errors import UserError
    from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
    from efficientnet_pod.workdir.metrics_log import MetricsLog, read_metrics
    from efficientnet_pod.workdir.owner import Owner
    from efficientnet_pod.workdir.workdir import Workdir

    workdir, state = Workdir(WORKDIR), {"kernel": np.arange(12.0, dtype=np.float32).reshape(3, 4)}
    print(f"{WORKDIR} through {type(workdir.path._backend).__name__}")  # pyright: ignore
    for start in (0, 2):
        with Owner(workdir.path, interval=1.0) as owner:
            refused = expect(UserError, lambda: Owner(workdir.path, interval=1.0).__enter__())
            workdir.claim({"seed": 0})
            refused_config = expect(UserError, lambda: workdir.claim({"seed": 1}))
            with MetricsLog(workdir, resumed_step=start) as log:
                for step in range(start + 1, start + 4):  # the last one is made again
                    log.write({"step": step, "split": "train", "loss": 1.0 / step})
            with Checkpoints(workdir.checkpoints) as checkpoints:
                checkpoints.save(start + 2, state, metrics={"top1": 0.5})  # pyright: ignore
                checkpoints.wait()
            owner.raise_if_lost()
        assert not (workdir.path / "owner.json").exists()
    print(f"a second run is refused: {refused}")
    print(f"another config is refused: {refused_config}")
    assert [row["step"] for row in read_metrics(workdir)] == [1, 2, 3, 4, 5]
    print("metrics.jsonl has each step once")
    assert len(list((workdir.path / "tensorboard").iterdir())) == 2
    with Checkpoints(workdir.checkpoints) as checkpoints:
        assert checkpoints.named("latest") == 4
        restored: Any = checkpoints.restore(4, jax.eval_shape(lambda: state))
    np.testing.assert_array_equal(restored["kernel"], state["kernel"])
    print("the newest checkpoint is restored; done")


def expect(kind: type[Exception], call: Any) -> str:
    """Returns the message of the exception that the call raises."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def make_certificate(folder: Path) -> Path:
    """Returns a file with a certificate of the storage hosts, signed by itself; its key is beside it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, HOSTS[0])])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "certificate.pem").write_bytes(signed.public_bytes(pem))
    return folder / "certificate.pem"


def serve(certificate: Path, emulator: str) -> int:
    """Starts the proxy in threads and returns its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection, context, emulator), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def answer(connection: socket.socket, context: ssl.SSLContext, emulator: str) -> None:
    """Hands the requests of one connection to the emulator."""
    read = connection.makefile("rb")
    line, _ = read.readline().decode(), read_headers(read)
    if not line.startswith(tuple(f"CONNECT {host}:443 " for host in HOSTS)):
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        connection.close()
        return
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    tls = context.wrap_socket(connection, server_side=True)
    read = tls.makefile("rb")
    while request := read.readline().decode():
        method, path, _ = request.split(" ", 2)
        headers = read_headers(read)
        if headers.pop("expect", ""):
            tls.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = read_body(read, headers)
        for name in ("accept-encoding", "transfer-encoding"):
            headers.pop(name, "")
        upstream = http.client.HTTPConnection(emulator)
        upstream.request(method, path, body, headers | {"content-length": str(len(body))})
        reply = upstream.getresponse()
        contents = reply.read()
        kept = {"content-length": str(len(contents))}
        for name, value in reply.getheaders():
            if name.lower() in (
                "location",
                "content-type",
                "range",
            ):  # where an upload goes on, how far it is
                kept[name] = value.replace(f"http://{HOSTS[0]}", f"https://{HOSTS[0]}")
        head = "".join(f"{name}: {value}\r\n" for name, value in kept.items())
        tls.sendall(f"HTTP/1.1 {reply.status} {reply.reason}\r\n{head}\r\n".encode() + contents)


def read_body(read: Any, headers: dict[str, str]) -> bytes:
    """Returns the body of a request, of a length said before or in chunks."""
    if headers.get("transfer-encoding") != "chunked":
        return read.read(int(headers.get("content-length", 0)))
    body = b""
    while length := int(read.readline(), 16):
        body += read.read(length)
        read.readline()
    read.readline()
    return body


def read_headers(read: Any) -> dict[str, str]:
    """Returns the headers of a request, names in lower case."""
    headers = {}
    while (line := read.readline().decode().strip()) != "":
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


if __name__ == "__main__":
    main()
