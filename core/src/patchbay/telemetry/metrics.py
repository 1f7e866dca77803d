"""Every metric of every service, declared once. Names follow https://prometheus.io/docs/practices/naming/."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram


class BoundedLabel:
    """A label whose values come from clients: the first ones stand for themselves, all later ones are `other`.

    Args:
        most: How many stand for themselves.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, value: str) -> str:
        """What to count `value` under."""
        if value not in self._known:
            if len(self._known) >= self._most or len(value) > _LONGEST_LABEL:
                return "other"
            self._known.add(value)
        return value


_LONGEST_LABEL = 200
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

WORKER_IN_FLIGHT = Gauge("patchbay_worker_in_flight", "Chats running in this worker.")
WORKER_CHATS = Counter("patchbay_worker_chats_total", "Chats ended, by how.", ["backend", "outcome"])
WORKER_CHAT_SECONDS = Histogram(
    "patchbay_worker_chat_seconds", "Seconds from a chat's call to its end.", ["backend"], buckets=_SECONDS
)

EDGE_IN_FLIGHT = Gauge("patchbay_edge_in_flight", "Client requests running in this edge.")
EDGE_REQUESTS = Counter("patchbay_edge_requests_total", "Client requests answered.", ["endpoint", "dialect", "status"])
EDGE_FIRST_BYTE_SECONDS = Histogram(
    "patchbay_edge_first_byte_seconds",
    "Seconds from a request's arrival to the first byte of its answer's body.",
    ["dialect", "backend"],
    buckets=_SECONDS,
)
EDGE_REQUEST_SECONDS = Histogram(
    "patchbay_edge_request_seconds", "Seconds from a request's arrival to its end.", ["dialect"], buckets=_SECONDS
)
EDGE_RETRIES = Counter("patchbay_edge_retries_total", "Attempts after the first one, by why.", ["backend", "reason"])
EDGE_DISCONNECTS = Counter("patchbay_edge_disconnects_total", "Clients that left before their answer ended.")
EDGE_STREAM_ERRORS = Counter(
    "patchbay_edge_stream_errors_total", "Answers that ended in an error after their head was sent.", ["backend"]
)
EDGE_DENIED = Counter("patchbay_edge_denied_total", "Requests refused by a limit.", ["limit"])
EDGE_SOCKETS = Gauge("patchbay_edge_sockets", "Open WebSockets of the Responses API.")
EDGE_CODEBUFF_SOCKETS = Gauge("patchbay_edge_codebuff_sockets", "Open WebSockets of Codebuff's clients.")
EDGE_CODEBUFF_UNATTACHED = Gauge(
    "patchbay_edge_codebuff_unattached", "Of these, those that no replica of codebuff-ws has at the moment."
)
EDGE_CODEBUFF_REATTACHED = Counter(
    "patchbay_edge_codebuff_reattached_total", "WebSockets that another replica was given, by why.", ["reason"]
)
EDGE_CODEBUFF_CLOSED = Counter(
    "patchbay_edge_codebuff_closed_total", "WebSockets of Codebuff's clients that were closed here, by code.", ["code"]
)
EDGE_RESPONSES_NOT_KEPT = Counter(
    "patchbay_edge_responses_not_kept_total", "Responses that no later turn can go on from, by reason.", ["reason"]
)
EDGE_TOKENS = Counter("patchbay_edge_tokens_total", "Tokens used, by kind.", ["backend", "model", "kind"])
CODEBUFF_TOKENS = Counter(
    "patchbay_codebuff_tokens_total",
    "Tokens that Codebuff's agents used in codebuff-ws, by caller and kind.",
    ["key_id", "backend", "model", "kind"],
)
CODEBUFF_CREDITS = Counter(
    "patchbay_codebuff_credits_total",
    "What these cost, in credits, where the provider says so.",
    ["key_id", "backend", "model"],
)
MODELS = BoundedLabel(200)
REDIS_DOWN = Gauge("patchbay_redis_down", "1 while Redis cannot be reached from this process.")

CLI_PROCESSES = Gauge("patchbay_cli_processes", "Claude Code processes, by what they do.", ["backend", "state"])
CLI_RSS_BYTES = Gauge("patchbay_cli_rss_bytes", "Memory of a backend's Claude Code processes.", ["backend"])
CLI_SPAWN_SECONDS = Histogram(
    "patchbay_cli_spawn_seconds", "Seconds until a Claude Code process was ready.", ["backend"], buckets=_SECONDS
)
CLI_WAIT_SECONDS = Histogram(
    "patchbay_cli_wait_seconds", "Seconds that a chat waited for its process.", ["backend"], buckets=_SECONDS
)
CLI_RETIRED = Counter("patchbay_cli_retired_total", "Claude Code processes ended, by why.", ["backend", "reason"])
CLI_CRASHES = Counter("patchbay_cli_crashes_total", "Claude Code processes that ended by themselves.", ["backend"])

CODEX_RENEWALS = Counter(
    "patchbay_codex_renewals_total", "Renewals of ChatGPT sign-ins, by how they ended.", ["backend", "outcome"]
)
CODEX_USED_PERCENT = Gauge(
    "patchbay_codex_used_percent",
    "How much of an account's limit is used, by its window.",
    ["backend", "account", "window"],
)
CODEX_COOLING = Gauge(
    "patchbay_codex_cooling_seconds", "Seconds until an account that is at its limit may go on.", ["backend", "account"]
)
CODEX_SIGNED_IN = Gauge("patchbay_codex_signed_in", "1 while an account is signed in.", ["backend", "account"])
