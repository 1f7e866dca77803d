"""Every key that Patchbay keeps in Redis, each with its type, its time to live and its owner.

All names start with `pb:`. Keys that one script touches share a hash tag, the part in braces, so that Redis Cluster
keeps them on one shard (https://valkey.io/topics/cluster-spec/#hash-tags). All times are the server's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class AdmissionKeys:
    """The keys of one `Admission`: what it admits is counted apart from what others do.

    Attributes:
        tag: Their hash tag.
    """

    tag: str

    @property
    def connections(self) -> str:
        """See `CONNECTIONS`."""
        return f"pb:{{{self.tag}}}:connections"

    @property
    def probe(self) -> str:
        """See `PROBE`."""
        return f"pb:{{{self.tag}}}:probe"

    @property
    def concurrency_pattern(self) -> str:
        """Matches every key that `concurrency` names."""
        return self.concurrency("*")

    def concurrency(self, key_id: str) -> str:
        """See the function of this name."""
        return f"pb:{{{self.tag}}}:concurrency:{key_id}"

    def concurrency_key_id(self, name: str) -> str:
        """The API key id in a name made by `concurrency`."""
        return name.removeprefix(self.concurrency(""))

    def rate(self, key_id: str) -> str:
        """See the function of this name."""
        return f"pb:{{{self.tag}}}:rate:{key_id}"


REQUESTS: Final = AdmissionKeys("admission")
"""Of requests, and of the sockets of the Responses API."""

CODEBUFF_SOCKETS: Final = AdmissionKeys("codebuff-sockets")
"""Of Codebuff's sockets; what stands for the API key is `key:<id>`, or `address:<address>` of a client without one."""

CONNECTIONS: Final = REQUESTS.connections
"""Sorted set: lease -> when it expires (ms). TTL 600 s, renewed by every change. Owner: `admission`. One member for
each request that holds a place in the cluster."""

PROBE: Final = REQUESTS.probe
"""String: the replica that wrote last. TTL 5 s. Owner: `admission`, which writes it to learn that an unavailable Redis
takes writes again."""

WORKERS: Final = "pb:{registry}:workers"
"""Hash: worker id -> `WorkerRecord` as JSON. TTL 86,400 s, renewed by every heartbeat. Owner: `registry`."""

WORKERS_EXPIRY: Final = "pb:{registry}:workers:expiry"
"""Sorted set: worker id -> when its record expires (ms). TTL 86,400 s, renewed by every heartbeat. Owner:
`registry`."""

EDGES: Final = "pb:{registry}:edges"
"""Hash: edge id -> `EdgeRecord` as JSON. TTL 86,400 s, renewed by every heartbeat. Owner: `registry`."""

EDGES_EXPIRY: Final = "pb:{registry}:edges:expiry"
"""Sorted set: edge id -> when its record expires (ms). TTL 86,400 s, renewed by every heartbeat. Owner: `registry`."""

REGISTRY_EPOCH: Final = "pb:{registry}:epoch"
"""String: when this registry was first written (microseconds). TTL 86,400 s, renewed by every heartbeat. Owner:
`registry`. Another value than before means that Redis came back empty."""

REGISTRY_CHANGED: Final = "pb:registry:changed"
"""Pub/sub channel, no key: `announced <id>` or `withdrawn <id>`. Owner: `registry`."""

PERMISSION_REQUESTS: Final = "pb:{permissions}:requests"
"""Hash: request id -> the pending request, its lines as `ask_v1.lua` writes them. TTL 86,400 s beyond the longest wait,
renewed by every request and every renewed lease. Owner: `permissions`."""

PERMISSION_LEASES: Final = "pb:{permissions}:leases"
"""Sorted set: request id -> when the lease of the one who asks ends (ms). TTL as above. Owner: `permissions`."""

PERMISSIONS_RESOLVED: Final = "pb:{permissions}:resolved"
"""Hash: request id -> the resolved request with its decision, its lines as `resolve_v1.lua` writes them. Each is
dropped after 600 s. TTL 1,200 s, renewed by every answer. Owner: `permissions`."""

PERMISSIONS_RESOLVED_EXPIRY: Final = "pb:{permissions}:resolved:expiry"
"""Sorted set: request id -> when its answer is dropped (ms). TTL 1,200 s, renewed by every answer. Owner:
`permissions`."""

PERMISSIONS_AUDIT: Final = "pb:{permissions}:audit"
"""Stream of what was asked and how it was resolved, about the last 10,000 of it: `event` (`asked` or `resolved`),
`request` (JSON, without the tool's input) and `verdict` (JSON). TTL 30 days, renewed by every entry. Owner:
`permissions`."""

PERMISSIONS_CHANGED: Final = "pb:permissions:changed"
"""Pub/sub channel, no key: `asked <request id>` or `resolved <request id>`. Owner: `permissions`."""

CODEX_LOGINS: Final = "pb:{codex}:logins"
"""Hash: account -> `<fingerprint> <its sign-in, sealed>`. TTL 90 days, renewed by every sign-in and renewal. Owner:
`codex_accounts`."""

CODEX_LIMITS: Final = "pb:{codex}:limits"
"""Hash: `quota:<ChatGPT account>` -> `Quota` as JSON, `cooling:<ChatGPT account>` -> `Cooling` as JSON. TTL 8 days, a
day longer than the longest window, renewed by every note. Owner: `codex_limits`."""

CODEBUFF_TOPICS: Final = "pb:codebuff:topics"
"""Pub/sub channel, no key: a message for the sockets that follow a topic, as `codebuff_topics` writes it. Owner:
`codebuff_topics`."""

CODEBUFF_CANCELLED: Final = "pb:codebuff:cancelled"
"""Pub/sub channel, no key: the name of a run that its client has cancelled, as `codebuff_runs` makes it. Owner:
`codebuff_runs`."""


def concurrency(key_id: str) -> str:
    """Sorted set: lease -> when it expires (ms). TTL 600 s, renewed by every change. Owner: `admission`. One member for
    each request that this API key has under way."""
    return REQUESTS.concurrency(key_id)


def rate(key_id: str) -> str:
    """String `<microseconds>:<level>`: the request-rate bucket of this API key. TTL 120 s, twice what a full bucket
    takes to drain. Owner: `admission`."""
    return REQUESTS.rate(key_id)


def codex_renewal(fingerprint: str) -> str:
    """Hash: what becomes of one refresh token, known by its fingerprint: `claimant` and `claimed_until` (ms) while it
    is being spent; `successor`, the sign-in that came of it, sealed; `failed` and `failed_until` (ms); `tries` and
    `retry_at` (ms). TTL 30 days, renewed by every change. Owner: `codex_renewals`."""
    return f"pb:{{codex-renewal:{fingerprint}}}"


def codex_session(session: str) -> str:
    """String: the ChatGPT account that a session's requests went to last. TTL 3,600 s, renewed by every request.
    Owner: `codex_limits`."""
    return f"pb:{{codex-session:{session}}}"


def conversation(conversation_id: str) -> str:
    """Hash: `turn` -> how many turns it has had, `record` -> `ConversationRecord` as JSON. TTL 86,400 s, renewed by
    every turn. Owner: `conversations`."""
    return f"pb:{{conversation:{conversation_id}}}"


def transcripts(session_id: str) -> str:
    """Set: the names of the transcripts that an agent's session has, its subagents' too. TTL 86,400 s, renewed by every
    entry. Owner: `conversations`."""
    return f"pb:{{session:{session_id}}}:transcripts"


def transcript(session_id: str, name: str) -> str:
    """List: the entries of one transcript, each as JSON. TTL 86,400 s, renewed by every entry. Owner:
    `conversations`."""
    return f"pb:{{session:{session_id}}}:transcript:{name}"


def transcript_ids(session_id: str, name: str) -> str:
    """Set: the ids of the entries in one transcript. TTL 86,400 s, renewed by every entry. Owner: `conversations`."""
    return f"pb:{{session:{session_id}}}:transcript-ids:{name}"


def response(digest: str) -> str:
    """String: where a response of the Responses API stands, sealed where there is a key. TTL `sessions.ttl_seconds`.
    Owner: `responses`. The digest is of its owner and its id."""
    return f"pb:response:{digest}"


def story(story_id: str) -> str:
    """List: what was said in a conversation, an array of items for each entry, sealed where there is a key. TTL
    `sessions.ttl_seconds`, renewed by every turn. Owner: `responses`."""
    return f"pb:story:{story_id}"


def last_response(digest: str) -> str:
    """String: the id of a session's last response. TTL `sessions.ttl_seconds`, renewed by every turn. Owner:
    `responses`. The digest is of its owner and its name."""
    return f"pb:last-response:{digest}"


def codebuff_connection(digest: str) -> str:
    """String: `ConnectionRecord` as JSON, what a Codebuff client's socket has said of itself. TTL
    `codebuff.session_ttl_seconds`, renewed by every prompt. Owner: `codebuff_sessions`. The digest is of the socket's
    id."""
    return f"pb:codebuff-connection:{digest}"


def codebuff_project(digest: str) -> str:
    """String: what a Codebuff client has said of its project, as JSON, sealed where there is a key. TTL
    `codebuff.session_ttl_seconds`, renewed by every prompt. Owner: `codebuff_sessions`. The digest is of the socket's
    id, or of the client's session and its owner."""
    return f"pb:codebuff-project:{digest}"


def codebuff_run(digest: str) -> str:
    """Hash: `start`, `step:<number>`, `chat:<request>` and `end` -> what is known of a run of a Codebuff agent, as
    JSON; `counted` -> who has counted what it used. TTL `codebuff.runs_ttl_seconds`, renewed by every step. Owner:
    `codebuff_runs`. The digest is of the run's id."""
    return f"pb:codebuff-run:{digest}"


def codebuff_usage(digest: str, month: str) -> str:
    """String: the credits that a caller's Codebuff agents have used in a month (`2026-11`, UTC). TTL 62 days, renewed
    by every prompt. Owner: `codebuff_usage`. The digest is of the caller."""
    return f"pb:codebuff-usage:{digest}:{month}"


def codebuff_login(login_id: str) -> str:
    """String: `Login` as JSON, a sign-in that a Codebuff CLI has begun. TTL 300 s. Owner: `codebuff_logins`."""
    return f"pb:codebuff-login:{login_id}"


def codebuff_login_tries(login_id: str) -> str:
    """String: how many keys a browser has tried for a sign-in. TTL 300 s, renewed by every try. Owner:
    `codebuff_logins`."""
    return f"pb:codebuff-login-tries:{login_id}"


def codebuff_login_token(login_id: str) -> str:
    """String: what a sign-in has come to, sealed where it is a key, until its CLI takes it. TTL 300 s. Owner:
    `codebuff_logins`."""
    return f"pb:codebuff-login-token:{login_id}"


def codebuff_logins_begun(digest: str, minute: int) -> str:
    """String: how many sign-ins were begun from an address in a minute (since 1970). TTL 120 s. Owner:
    `codebuff_logins`. The digest is of the address."""
    return f"pb:codebuff-logins-begun:{digest}:{minute}"
