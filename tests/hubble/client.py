"""A client of Hubble's Observer in another language, from the text of the protocol alone.

client.py PROTOCOL TARGET [CA CERTIFICATE KEY NAME]: prints what it is told, a line of JSON each.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import grpc
from google.protobuf.json_format import MessageToDict

protocol, target, *certificates = sys.argv[1:]
made = tempfile.TemporaryDirectory()
files = [str(path) for path in pathlib.Path(protocol).glob("*/*.proto")]
subprocess.run(["protoc", f"-I{protocol}", "-I/usr/include", f"--python_out={made.name}", *files], check=True)
sys.path.insert(0, made.name)
from flow import flow_pb2
from observer import observer_pb2

if certificates:
    authority, certificate, key, name = certificates
    read = lambda path: pathlib.Path(path).read_bytes()
    credentials = grpc.ssl_channel_credentials(read(authority), read(key), read(certificate))
    options = [("grpc.ssl_target_name_override", name)]
    channel = grpc.secure_channel(target, credentials, options)
else:
    channel = grpc.insecure_channel(target)


def call(method, request, answer, many=False):
    make = channel.unary_stream if many else channel.unary_unary
    path = f"/observer.Observer/{method}"
    kind = type(request)
    return make(path, kind.SerializeToString, answer.FromString)(request, timeout=30)


def tell(**what):
    print(json.dumps(what, sort_keys=True), flush=True)


status = call("ServerStatus", observer_pb2.ServerStatusRequest(), observer_pb2.ServerStatusResponse)
tell(status={"max_flows": status.max_flows, "has_flows": status.num_flows > 0})
nodes = call("GetNodes", observer_pb2.GetNodesRequest(), observer_pb2.GetNodesResponse)
tell(node_address=nodes.nodes[0].address)
filters = {
    "denied names": flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED], protocol=["dns"]),
    "answers": flow_pb2.FlowFilter(protocol=["dns"], reply=[True]),
    "to web": flow_pb2.FlowFilter(destination_fqdn=["web.*"], event_type=[{"type": 5}]),
}
for name, wanted in filters.items():
    request = observer_pb2.GetFlowsRequest(number=100, whitelist=[wanted])
    for response in call("GetFlows", request, observer_pb2.GetFlowsResponse, many=True):
        flow = response.flow
        names = list(flow.destination_names)
        tell(filter=name, summary=flow.Summary, pod=flow.source.pod_name, names=names)
request = observer_pb2.GetFlowsRequest(whitelist=[flow_pb2.FlowFilter(source_ip=["nonsense"])])
try:
    list(call("GetFlows", request, observer_pb2.GetFlowsResponse, many=True))
except grpc.RpcError as error:
    tell(refused=error.code().name, why=error.details())
events = observer_pb2.GetAgentEventsRequest(number=100, first=True)
for response in call("GetAgentEvents", events, observer_pb2.GetAgentEventsResponse, many=True):
    event = MessageToDict(response.agent_event, preserving_proto_field_name=True)
    time = response.time.ToJsonString()
    tell(agent=event["type"], event=event, node=response.node_name, time=time)
