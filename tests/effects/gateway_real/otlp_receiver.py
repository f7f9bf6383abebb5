"""A receiver of spans for tests: OTLP over gRPC, each span a line of JSON in a file.

Run as ``python otlp_receiver.py FILE`` by the Python of the CPU vLLM environment, which has
grpcio and opentelemetry-proto. Prints its port, then serves until it is ended.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.json_format import MessageToJson
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services


class Receiver(services.TraceServiceServicer):
    def Export(self, request: messages.ExportTraceServiceRequest, context: object) -> object:
        with open(sys.argv[1], "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(MessageToJson(request, indent=None) + "\n")
        return messages.ExportTraceServiceResponse()


server = grpc.server(ThreadPoolExecutor(max_workers=1))
services.add_TraceServiceServicer_to_server(Receiver(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
