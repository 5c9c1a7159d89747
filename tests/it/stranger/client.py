"""A client of somebody who has Tide's protocol files and nothing else of it.

client.py STUBS ADDRESS CA TOKEN AGENT lists the fleet, watches it, drains AGENT and follows that to
its end. Prints what it saw, as JSON.
"""

import json
import sys

stubs, address, ca, token, drained = sys.argv[1:]
sys.path.insert(0, stubs)

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tide.fleet.v1 import fleet_pb2, fleet_service_pb2, fleet_service_pb2_grpc
from tide.fleet.v1 import operation_service_pb2, operation_service_pb2_grpc

# Longer than anything here takes; a hang is a failure.
PATIENCE = 60

with open(ca, "rb") as file:
    tls = grpc.ssl_channel_credentials(file.read())


def connect(token):
    bearer = grpc.access_token_call_credentials(token)
    return grpc.secure_channel(address, grpc.composite_channel_credentials(tls, bearer))


def listed(fleet):
    """Every agent's name, a page at a time."""
    names, page = [], ""
    while True:
        request = fleet_service_pb2.ListAgentsRequest(page_size=1, page_token=page)
        answer = fleet.ListAgents(request, timeout=PATIENCE)
        names += [agent.name for agent in answer.agents]
        page = answer.next_page_token
        if not page:
            return names


def watched_until(changes, name, state):
    """The kinds of messages that came until an agent was in a state."""
    kinds = []
    for change in changes:
        kind = change.WhichOneof("event")
        kinds.append(kind)
        for agent in getattr(change, kind).agents:
            if agent.name == name and agent.state == state:
                return kinds
    raise SystemExit("the watch ended")


def refusal(call):
    try:
        call()
    except grpc.RpcError as error:
        metadata = dict(error.trailing_metadata())
        return {
            "code": error.code().name,
            "message": error.details(),
            "hint": metadata.get("tide-hint"),
            "typed": "grpc-status-details-bin" in metadata,
        }
    raise SystemExit("it was not refused")


channel = connect(token)
fleet = fleet_service_pb2_grpc.FleetServiceStub(channel)
operations = operation_service_pb2_grpc.OperationServiceStub(channel)

seen = {"agents": listed(fleet)}
pipelines = fleet.ListPipelines(fleet_service_pb2.ListPipelinesRequest(), timeout=PATIENCE)
seen["pipelines"] = [pipeline.name for pipeline in pipelines.pipelines]
seen["services"] = sorted(ProtoReflectionDescriptorDatabase(channel).get_services())

changes = fleet.WatchFleet(fleet_service_pb2.WatchFleetRequest(), timeout=PATIENCE)
first = next(changes)
seen["first"] = first.WhichOneof("event")

request = operation_service_pb2.DrainRequest(agent=drained, reason="by a stranger")
started = operations.Drain(request, timeout=PATIENCE).operation
watch = operation_service_pb2.WatchOperationRequest(id=started.id)
for progress in operations.WatchOperation(watch, timeout=PATIENCE):
    ended = progress.operation
seen["operation"] = {
    "id": ended.id,
    "actor": ended.actor,
    "state": operation_service_pb2.OperationState.Name(ended.state),
    "safe_to_stop": ended.safe_to_stop,
}
seen["changes"] = watched_until(changes, drained, fleet_pb2.AGENT_STATE_DRAINED)
changes.cancel()

unknown = operation_service_pb2.DrainRequest(agent="nobody", reason="a mistake")
seen["unknown"] = refusal(lambda: operations.Drain(unknown, timeout=PATIENCE))
guess = fleet_service_pb2_grpc.FleetServiceStub(connect("guess"))
seen["guess"] = refusal(
    lambda: guess.GetFleet(fleet_service_pb2.GetFleetRequest(), timeout=PATIENCE)
)
print(json.dumps(seen))
