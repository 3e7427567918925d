"""The fake queued-resources service: its resources, their states over time, and its gRPC methods."""

import json
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import grpc
from google.cloud import tpu_v2
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2

from launch.backends.fake.faults import Fault
from launch.backends.fake.machines import LocalWorkers
from launch.job.slices import parse_slice

_TPU, _FAKE = "google.cloud.tpu.v2.Tpu", "efficientnet_pod.FakeTpu"
PREEMPT = f"/{_FAKE}/Preempt"
States = tpu_v2.QueuedResourceState.State
# Each state follows the one before it by itself, after `state_seconds`.
_NEXT: dict[States, States] = {
    **dict(pairwise((States.CREATING, States.ACCEPTED, States.PROVISIONING, States.ACTIVE))),
    States.WAITING_FOR_RESOURCES: States.PROVISIONING,
}


@dataclass
class Resource:
    """A queued resource: its definition, its state, the time of the last change, and its processes."""

    definition: tpu_v2.QueuedResource
    since: float
    state: States = States.CREATING
    workers: LocalWorkers | None = None

    def shown(self) -> tpu_v2.QueuedResource:
        """Returns the resource as the API shows it."""
        shown = tpu_v2.QueuedResource(self.definition)
        shown.state = tpu_v2.QueuedResourceState(state=self.state)
        return shown

    @property
    def chips(self) -> int:
        """Chips that are asked for."""
        (spec,) = self.definition.tpu.node_spec
        slices = spec.multislice_params.node_count or 1
        return parse_slice(spec.node.accelerator_type).target.chips * slices


class Refusal(Exception):
    """An error of the API: its code and its message."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


class FakeTpu:
    """The service. A context manager: leaving it kills all workers.

    Attributes:
      faults: functions by method, called before it; they raise a `Refusal`, or take time.
      history: (resource, state) of all changes, in their order.
      last_call: time of the last call, by the monotonic clock.
      port: port on 127.0.0.1.
      resources: resources by name.
    """

    def __init__(
        self,
        start: Callable[[str, tpu_v2.QueuedResource], LocalWorkers] | None = None,
        *,
        offered: tuple[str, ...] = (),
        state_seconds: float = 0.3,
        capacity: Callable[[], float] = lambda: math.inf,
        fault: Callable[[], Fault] = Fault,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts to listen.

        Args:
          start: starts the processes of a resource that became ACTIVE; None: there are none.
          offered: accelerator types of every zone.
          state_seconds: time in each state on the way to ACTIVE.
          capacity: returns the most chips that one request is granted now; larger ones wait.
          fault: returns what goes wrong now, on purpose.
          clock: returns a time in seconds.
        """
        self._start, self._offered, self._seconds = start, offered, state_seconds
        self._capacity, self._fault, self._time = capacity, fault, clock
        self.resources: dict[str, Resource] = {}
        self.faults: dict[str, Callable[[], None]] = {}
        self.history: list[tuple[str, str]] = []
        self.last_call = time.monotonic()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8))
        self._server.add_generic_rpc_handlers(_handlers(self))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
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

    def call(self, method: str, request: Any) -> Any:
        """Returns the answer to a request; raises `Refusal`."""
        self.last_call = time.monotonic()
        if fault := self.faults.get(method):
            fault()
        with self._lock:
            return getattr(self, f"_{method}")(request)

    def preempt(self, name: str, worker: int | None = None) -> None:
        """Takes a resource's machines away; raises `Refusal` if it has none."""
        with self._lock:
            resource = self._get(name)
            if resource.state is not States.ACTIVE:
                raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"{name} is {resource.state.name}")
            if resource.workers:
                resource.workers.preempt(worker)
            self._become(name, States.SUSPENDING)

    def _Preempt(self, request: dict[str, Any]) -> None:
        self.preempt(**request)

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            with self._lock:
                for name, resource in list(self.resources.items()):
                    self._advance(name, resource)

    def _advance(self, name: str, resource: Resource) -> None:
        is_down = resource.workers is None or resource.workers.are_down
        is_due = self._time() - resource.since >= self._seconds
        if resource.state in _NEXT and is_due:
            following = _NEXT[resource.state]
            is_full = resource.chips > self._capacity() or self._is_full()
            if following is States.PROVISIONING and is_full:
                following = States.WAITING_FOR_RESOURCES
            if following is resource.state:
                return
            self._become(name, following)
            if resource.state is States.ACTIVE and self._start:
                resource.workers = self._start(name, resource.definition)
        elif resource.state is States.SUSPENDING and is_down:
            self._become(name, States.SUSPENDED)
        elif resource.state is States.DELETING and is_due:
            if resource.workers:
                resource.workers.end()
            self.history.append((name, "GONE"))
            del self.resources[name]

    def _is_full(self) -> bool:
        fault = self._fault()
        return fault.name == "capacity" and not fault.is_due

    def _become(self, name: str, state: States) -> None:
        self.resources[name].state, self.resources[name].since = state, self._time()
        self.history.append((name, state.name))

    def _get(self, name: str) -> Resource:
        if name not in self.resources:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"Resource '{name}' was not found")
        return self.resources[name]

    def _ListAcceleratorTypes(self, request: Any) -> Any:
        types = [
            tpu_v2.AcceleratorType(name=f"{request.parent}/acceleratorTypes/{name}", type_=name)
            for name in self._offered
        ]
        return tpu_v2.ListAcceleratorTypesResponse(accelerator_types=types)

    def _CreateQueuedResource(self, request: Any) -> Any:
        short = request.queued_resource_id
        name = f"{request.parent}/queuedResources/{short}"
        if name in self.resources:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"Resource '{name}' already exists")
        if self._fault().name == "quota":
            limit = "Quota limit 'TPUsPerProjectPerZone' has been exceeded. Limit: 0 in this zone."
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, limit)
        resource = tpu_v2.QueuedResource(request.queued_resource)
        resource.name = name
        self.resources[name] = Resource(resource, since=self._time())
        self.history.append((name, "CREATING"))
        return operations_pb2.Operation(name=f"{request.parent}/operations/create-{short}")

    def _GetQueuedResource(self, request: Any) -> Any:
        return self._get(request.name).shown()

    def _DeleteQueuedResource(self, request: Any) -> Any:
        resource = self._get(request.name)
        if resource.state is States.ACTIVE and not request.force:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "the resource has nodes; set force")
        if resource.state is not States.DELETING:
            self._become(request.name, States.DELETING)
        parent, _, short = request.name.partition("/queuedResources/")
        return operations_pb2.Operation(name=f"{parent}/operations/delete-{short}")

    def _GetOperation(self, request: Any) -> Any:
        parent, _, operation_name = request.name.partition("/operations/")
        verb, _, short = operation_name.partition("-")
        resource = self.resources.get(f"{parent}/queuedResources/{short}")
        operation, answer = operations_pb2.Operation(name=request.name), any_pb2.Any()
        if verb == "create" and resource and resource.state is not States.CREATING:
            answer.Pack(tpu_v2.QueuedResource.pb(resource.shown()))
        elif verb == "delete" and resource is None:
            answer.Pack(empty_pb2.Empty())
        else:
            return operation
        operation.done = True
        operation.response.CopyFrom(answer)
        return operation


def _handlers(service: FakeTpu) -> list[grpc.GenericRpcHandler]:
    """Returns handlers that pass each method's requests to the service."""
    operation = operations_pb2.Operation.SerializeToString
    answers = {
        "ListAcceleratorTypes": tpu_v2.ListAcceleratorTypesResponse.serialize,
        "CreateQueuedResource": operation,
        "GetQueuedResource": tpu_v2.QueuedResource.serialize,
        "DeleteQueuedResource": operation,
    }
    methods: dict[str, dict[str, tuple[Any, Any]]] = {  # with bytes to request, and answer to bytes
        _TPU: {
            name: (getattr(tpu_v2, f"{name}Request").deserialize, write) for name, write in answers.items()
        },
        "google.longrunning.Operations": {
            "GetOperation": (operations_pb2.GetOperationRequest.FromString, operation)
        },
        _FAKE: {"Preempt": (json.loads, lambda _: b"")},
    }

    def handler(method: str, read: Any, write: Any) -> grpc.RpcMethodHandler:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return service.call(method, request)
            except Refusal as error:
                context.abort(error.code, str(error))

        return grpc.unary_unary_rpc_method_handler(answer, read, write)

    return [
        grpc.method_handlers_generic_handler(name, {key: handler(key, *own[key]) for key in own})
        for name, own in methods.items()
    ]
