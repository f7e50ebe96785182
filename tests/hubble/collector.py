"""A collector of logs in another language, from the text of the protocol alone.

collector.py PROTOCOL ADDRESS FILE: appends each record to a file as a line of JSON, until it is ended.
"""
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile

import grpc

protocol, address, file = sys.argv[1:]
made = tempfile.TemporaryDirectory()
text = pathlib.Path(protocol) / "otlp/logs.proto"
subprocess.run(["protoc", f"-I{protocol}", f"--python_out={made.name}", str(text)], check=True)
sys.path.insert(0, made.name)
from otlp import logs_pb2


def plain(attributes):
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in attributes}


def export(request, _context):
    with open(file, "a", encoding="utf-8") as lines:
        for logs in request.resource_logs:
            who = plain(logs.resource.attributes)
            for record in (record for scope in logs.scope_logs for record in scope.log_records):
                told = {
                    "service": who["service.name"],
                    "event": record.event_name,
                    "severity": record.severity_text,
                    "body": record.body.string_value,
                    "attributes": plain(record.attributes),
                    "trace": record.trace_id.hex(),
                }
                lines.write(json.dumps(told, sort_keys=True) + "\n")
    return logs_pb2.ExportLogsServiceResponse()


method = grpc.unary_unary_rpc_method_handler(
    export,
    request_deserializer=logs_pb2.ExportLogsServiceRequest.FromString,
    response_serializer=logs_pb2.ExportLogsServiceResponse.SerializeToString,
)
service = "opentelemetry.proto.collector.logs.v1.LogsService"
server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": method})])
server.add_insecure_port(address)
server.start()
print("ready", flush=True)
server.wait_for_termination()
