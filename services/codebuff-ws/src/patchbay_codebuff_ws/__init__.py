"""Codebuff's clients: their WebSocket protocol, their sessions, and the loop of their agents."""

import os

# gRPC reads this once, when it is first imported. Its newer event engine hands every message through a thread of its
# own, which costs a process twice the context switches and a fifth of its CPU a stream (grpcio 1.85, 64 paced streams).
# A later gRPC without the older engine ignores the setting.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener,-event_engine_dns")
