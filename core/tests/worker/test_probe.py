import subprocess
import sys
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


@pytest.fixture
def server():
    """A gRPC server with the health service, and how to set its status."""
    servicer = health.HealthServicer()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", lambda status: servicer.set("", status)
    server.stop(None).wait()


def probe(*arguments):
    command = [sys.executable, "-m", "patchbay.worker.probe", *arguments]
    return subprocess.run(command, check=False, timeout=30, capture_output=True).returncode


def test_status_is_the_exit_status(server):
    address, say = server
    say(health_pb2.HealthCheckResponse.SERVING)
    assert probe(address) == 0
    say(health_pb2.HealthCheckResponse.NOT_SERVING)
    assert probe(address) == 1


def test_nobody_there_is_not_healthy():
    assert probe("127.0.0.1:1") == 1


def test_it_needs_an_address():
    assert probe() == 1
