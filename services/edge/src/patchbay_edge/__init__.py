"""Patchbay's edge: terminates HTTP clients and forwards canonical chats to the workers."""

import os

# gRPC reads this once, when it is first imported. Its newer event engine hands every message through a thread of its
# own, which cost the edge twice the context switches and a fifth of its CPU a stream (grpcio 1.85, 64 paced streams).
# A later gRPC without the older engine ignores the setting.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener,-event_engine_dns")
