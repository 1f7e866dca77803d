"""Asks a gRPC server whether it is healthy: `python -m patchbay.worker.probe HOST:PORT`, exit status 0 or 1.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2


def healthy(address: str, *, timeout: float = 3.0) -> bool:
    """Whether the server at `address` (`host:port`) says within `timeout` seconds that it serves."""
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    serving: bool = answer.status == health_pb2.HealthCheckResponse.SERVING
    return serving


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m patchbay.worker.probe HOST:PORT")
    sys.exit(0 if healthy(sys.argv[1]) else 1)


if __name__ == "__main__":
    main()
