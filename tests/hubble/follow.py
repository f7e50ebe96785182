"""A follower of Hubble's Observer in another language.

follow.py PROTOCOL TARGET: follows from the last 255 flows on. It says `following`, then, a line of JSON each,
how many it has got and how many it was told that were lost, those between kernel and daemon apart, until it is
ended.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import grpc

protocol, target = sys.argv[1:]
made = tempfile.TemporaryDirectory()
files = [str(pathlib.Path(protocol) / name) for name in ("flow/flow.proto", "observer/observer.proto", "relay/relay.proto")]
subprocess.run(["protoc", f"-I{protocol}", "-I/usr/include", f"--python_out={made.name}", *files], check=True)
sys.path.insert(0, made.name)
from flow import flow_pb2
from observer import observer_pb2

follow = grpc.insecure_channel(target).unary_stream(
    "/observer.Observer/GetFlows",
    observer_pb2.GetFlowsRequest.SerializeToString,
    observer_pb2.GetFlowsResponse.FromString,
)
stream = follow(observer_pb2.GetFlowsRequest(follow=True, number=255))
# The server has begun once it has sent its head.
stream.initial_metadata()
print("following", flush=True)
got = lost = in_kernel = 0
for response in stream:
    kind = response.WhichOneof("response_types")
    got += kind == "flow"
    lost += response.lost_events.num_events_lost
    if response.lost_events.source == flow_pb2.PERF_EVENT_RING_BUFFER:
        in_kernel += response.lost_events.num_events_lost
    print(json.dumps({"got": got, "lost": lost, "in_kernel": in_kernel}), flush=True)
