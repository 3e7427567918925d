"""Owns the fake queued-resources service: its resources, how they change, and its gRPC methods."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from google.cloud import tpu_v2
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2

PREEMPT = "/efficientnet_pod.FakeTpu/Preempt"
_SERVICE = "google.cloud.tpu.v2.Tpu"
States = tpu_v2.QueuedResourceState.State
# What follows by itself, after so long.
_NEXT = {
    States.CREATING: States.ACCEPTED,
    States.ACCEPTED: States.PROVISIONING,
    States.PROVISIONING: States.ACTIVE,
}


class Workers(Protocol):
    """The processes of one resource."""

    def preempt(self, worker: int | None) -> None:
        """Takes the machines away, beginning with one worker or with all; returns at once."""
        ...

    @property
    def are_down(self) -> bool:
        """Whether none runs any more."""
        ...

    def end(self) -> None:
        """Kills what still runs."""
        ...


@dataclass
class Resource:
    """A queued resource: what was asked for, its state and since when, and its processes."""

    asked: tpu_v2.QueuedResource
    state: States = States.CREATING
    since: float = field(default_factory=time.monotonic)
    workers: Workers | None = None

    def become(self, state: States) -> None:
        """Changes the state."""
        self.state, self.since = state, time.monotonic()

    def shown(self) -> tpu_v2.QueuedResource:
        """Returns it as the API shows it."""
        shown = tpu_v2.QueuedResource(self.asked)
        shown.state = tpu_v2.QueuedResourceState(state=self.state)
        return shown


class Refusal(Exception):
    """An error of the API: its code and what it says."""

    def __init__(self, code: grpc.StatusCode, said: str):
        super().__init__(said)
        self.code = code


class FakeTpu:
    """The service. A context manager: leaving it kills all workers.

    Attributes:
      faults: by method, called before it; they raise a `Refusal`, or take their time.
      history: (resource, state) in the order of changes.
      port: on 127.0.0.1.
    """

    def __init__(
        self,
        start: Callable[[str, tpu_v2.QueuedResource], Workers] | None = None,
        *,
        offered: tuple[str, ...] = (),
        state_seconds: float = 0.3,
        port: int = 0,
    ):
        """Listens at once.

        Args:
          start: makes the processes of a resource that became ACTIVE; None: there are none.
          offered: accelerator types of every zone.
          state_seconds: for which a resource stays in each state on its way to ACTIVE.
          port: to listen on; 0: any.
        """
        self._start, self._offered, self._seconds = start, offered, state_seconds
        self.resources: dict[str, Resource] = {}
        self.faults: dict[str, Callable[[], None]] = {}
        self.history: list[tuple[str, str]] = []
        self.last_call = time.monotonic()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8))
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()
        # Workers end with the thread that has started them.
        self._clock = threading.Thread(target=self._run, name="fake-tpu", daemon=True)
        self._clock.start()

    def __enter__(self) -> "FakeTpu":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._ended.set()
        self._clock.join()
        for resource in self.resources.values():
            if resource.workers:
                resource.workers.end()

    def call(self, method: str, asked: Any) -> Any:
        """Answers one request; raises `Refusal`."""
        self.last_call = time.monotonic()
        if fault := self.faults.get(method):
            fault()
        with self._lock:
            return getattr(self, f"_{method}")(asked)

    def preempt(self, name: str, worker: int | None = None) -> None:
        """Takes a resource's machines away; raises `Refusal` where it has none."""
        with self._lock:
            resource = self._get(name)
            if resource.state is not States.ACTIVE:
                raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"{name} is {resource.state.name}")
            if resource.workers:
                resource.workers.preempt(worker)
            self._become(name, States.SUSPENDING)

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            with self._lock:
                for name in list(self.resources):
                    self._advance(name, self.resources[name])

    def _advance(self, name: str, resource: Resource) -> None:
        is_down = resource.workers is None or resource.workers.are_down
        if resource.state in _NEXT and time.monotonic() - resource.since >= self._seconds:
            self._become(name, _NEXT[resource.state])
            if resource.state is States.ACTIVE and self._start:
                resource.workers = self._start(name, resource.asked)
        elif resource.state is States.SUSPENDING and is_down:
            self._become(name, States.SUSPENDED)
        elif resource.state is States.DELETING and time.monotonic() - resource.since >= self._seconds:
            if resource.workers:
                resource.workers.end()
            self.history.append((name, "GONE"))
            del self.resources[name]

    def _become(self, name: str, state: States) -> None:
        self.resources[name].become(state)
        self.history.append((name, state.name))

    def _get(self, name: str) -> Resource:
        if name not in self.resources:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"Resource '{name}' was not found")
        return self.resources[name]

    def _ListAcceleratorTypes(self, asked: Any) -> Any:
        types = [
            tpu_v2.AcceleratorType(name=f"{asked.parent}/acceleratorTypes/{each}", type_=each)
            for each in self._offered
        ]
        return tpu_v2.ListAcceleratorTypesResponse(accelerator_types=types)

    def _CreateQueuedResource(self, asked: Any) -> Any:
        name = f"{asked.parent}/queuedResources/{asked.queued_resource_id}"
        if name in self.resources:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"Resource '{name}' already exists")
        resource = tpu_v2.QueuedResource(asked.queued_resource)
        resource.name = name
        self.resources[name] = Resource(resource)
        self.history.append((name, "CREATING"))
        return operations_pb2.Operation(name=f"{asked.parent}/operations/create-{asked.queued_resource_id}")

    def _GetQueuedResource(self, asked: Any) -> Any:
        return self._get(asked.name).shown()

    def _ListQueuedResources(self, asked: Any) -> Any:
        shown = [each.shown() for each in self.resources.values()]
        return tpu_v2.ListQueuedResourcesResponse(queued_resources=shown)

    def _DeleteQueuedResource(self, asked: Any) -> Any:
        resource = self._get(asked.name)
        if resource.state is States.ACTIVE and not asked.force:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "the resource has nodes; set force")
        if resource.state is not States.DELETING:
            self._become(asked.name, States.DELETING)
        parent = asked.name.partition("/queuedResources/")[0]
        return operations_pb2.Operation(name=f"{parent}/operations/delete-{asked.name.rpartition('/')[2]}")

    def _GetOperation(self, asked: Any) -> Any:
        parent, _, operation = asked.name.partition("/operations/")
        verb, _, short = operation.partition("-")
        resource = self.resources.get(f"{parent}/queuedResources/{short}")
        found = operations_pb2.Operation(name=asked.name)
        answer = any_pb2.Any()
        if verb == "create" and resource and resource.state is not States.CREATING:
            found.done = True
            answer.Pack(tpu_v2.QueuedResource.pb(resource.shown()))
            found.response.CopyFrom(answer)
        elif verb == "delete" and resource is None:
            found.done = True
            answer.Pack(empty_pb2.Empty())
            found.response.CopyFrom(answer)
        return found


_PLAIN = operations_pb2.Operation.SerializeToString
_METHODS: dict[str, tuple[Any, Any]] = {
    f"/{_SERVICE}/{method}": (
        getattr(tpu_v2, f"{method}Request").deserialize,
        _PLAIN if answer is None else answer.serialize,
    )
    for method, answer in {
        "ListAcceleratorTypes": tpu_v2.ListAcceleratorTypesResponse,
        "CreateQueuedResource": None,
        "GetQueuedResource": tpu_v2.QueuedResource,
        "ListQueuedResources": tpu_v2.ListQueuedResourcesResponse,
        "DeleteQueuedResource": None,
    }.items()
}
_METHODS["/google.longrunning.Operations/GetOperation"] = (
    operations_pb2.GetOperationRequest.FromString,
    _PLAIN,
)


class _Handlers(grpc.GenericRpcHandler):
    """Finds the method of a call."""

    def __init__(self, fake: FakeTpu):
        self._fake = fake

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler | None:
        """Returns what answers a call; None for a method that is not there."""
        path = handler_call_details.method
        if path == PREEMPT:
            return grpc.unary_unary_rpc_method_handler(self._preempt)
        if path not in _METHODS:
            return None
        method = path.rpartition("/")[2]

        def answer(asked: Any, context: grpc.ServicerContext) -> Any:
            try:
                return self._fake.call(method, asked)
            except Refusal as error:
                context.abort(error.code, str(error))

        read, write = _METHODS[path]
        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=read, response_serializer=write
        )

    def _preempt(self, asked: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            self._fake.preempt(**json.loads(asked))
        except Refusal as error:
            context.abort(error.code, str(error))
        return b""
