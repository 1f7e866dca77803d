"""Permission requests and their answers: the values that callers see, and the lines in which Redis keeps them."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["AuditEntry", "Decision", "PermissionRequest", "Resolved", "Stored", "Verdict"]


class PermissionRequest(msgspec.Struct, frozen=True):
    """What clients see of a question whether a tool may be used. Times are Unix seconds, of the server's clock."""

    id: str
    backend: str
    session: str
    tool_name: str
    input: msgspec.Raw
    created_at: float
    expires_at: float


class Decision(msgspec.Struct, frozen=True):
    """An answer.

    `updated_input` is the input to use instead, `reason` is for the agent to read. `by` is the key that answered, or
    `operator`, `timeout`, `withdrawn` (who asked went away), `lost` (who asked was killed), `redis`, `limit`.
    """

    allowed: bool
    updated_input: msgspec.Raw | None = None
    reason: str = ""
    by: str = ""


class Resolved(msgspec.Struct, frozen=True):
    """A request that has its answer."""

    request: PermissionRequest
    decision: Decision


class Asker(msgspec.Struct, frozen=True):
    """A request without its input and times, and who asks: what is kept of it in the audit."""

    id: str
    backend: str
    session: str
    tool_name: str
    key_id: str
    worker_id: str


class Verdict(msgspec.Struct, frozen=True):
    """A decision without the input."""

    decision: Literal["allow", "deny"]
    reason: str
    by: str
    changed_input: bool

    @classmethod
    def of(cls, decision: Decision) -> Verdict:
        word: Literal["allow", "deny"] = "allow" if decision.allowed else "deny"
        return cls(word, decision.reason, decision.by, decision.updated_input is not None)


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the audit: what was asked, or how it was resolved, and when (Unix seconds of the server's clock)."""

    at: float
    event: Literal["asked", "resolved"]
    id: str
    backend: str
    session: str
    tool_name: str
    key_id: str
    worker_id: str
    decision: Literal["allow", "deny"] | None = None
    reason: str = ""
    by: str = ""
    changed_input: bool = False


class Stored(msgspec.Struct, frozen=True):
    """A request as Redis keeps it, with its decision once there is one."""

    request: PermissionRequest
    asker: Asker
    decision: Decision | None = None

    def visible_to(self, key_id: str | None) -> bool:
        """Whether a key may see it; None stands for an operator."""
        return key_id is None or key_id == self.asker.key_id

    def resolved(self) -> Resolved | None:
        return None if self.decision is None else Resolved(self.request, self.decision)


class _WrittenDecision(msgspec.Struct):
    """A `Decision`, to read: msgspec takes only null for `Raw | None`."""

    allowed: bool
    updated_input: msgspec.Raw
    reason: str
    by: str


_asker = msgspec.json.Decoder(Asker)
_decision = msgspec.json.Decoder(_WrittenDecision)
_verdict = msgspec.json.Decoder(Verdict)


def one_line(json: bytes) -> bytes:
    """JSON without white space between its parts, and so without line breaks.

    Raises:
        ValueError: It is no JSON, or nested too deep to be read.
    """
    try:
        return msgspec.json.format(json, indent=-1)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def read_request(lines: bytes) -> Stored:
    """Reads what `ask_v1.lua` wrote."""
    times, asker_line, tool_input = lines.split(b"\n", 2)
    asked_at, expires_at = times.split()
    asker = _asker.decode(asker_line)
    request = PermissionRequest(
        id=asker.id,
        backend=asker.backend,
        session=asker.session,
        tool_name=asker.tool_name,
        input=msgspec.Raw(tool_input),
        created_at=int(asked_at) / 1000,
        expires_at=int(expires_at) / 1000,
    )
    return Stored(request, asker)


def read_resolved(lines: bytes) -> Stored:
    """Reads what `resolve_v1.lua` or `sweep_v1.lua` wrote."""
    _, decision_line, request = lines.split(b"\n", 2)
    written = _decision.decode(decision_line)
    # A copy, so that a short input does not keep all the lines in memory.
    updated_input = None if bytes(written.updated_input) == b"null" else written.updated_input.copy()
    decision = Decision(written.allowed, updated_input, written.reason, written.by)
    return msgspec.structs.replace(read_request(request), decision=decision)


def read_audit(entry_id: bytes, fields: dict[bytes, bytes]) -> AuditEntry:
    """Reads an entry of the audit stream."""
    asker = _asker.decode(fields[b"request"])
    said = msgspec.structs.asdict(asker)
    if b"verdict" in fields:
        said |= msgspec.structs.asdict(_verdict.decode(fields[b"verdict"]))
    event: Literal["asked", "resolved"] = "resolved" if fields[b"event"] == b"resolved" else "asked"
    return AuditEntry(at=int(entry_id.partition(b"-")[0]) / 1000, event=event, **said)
