"""The issuer's words for what it does not do."""

from __future__ import annotations

from patchbay_standin.script import JsonObject


class Refusal(Exception):
    """A request that is refused: its status and body."""

    def __init__(self, status: int, body: JsonObject) -> None:
        super().__init__(body)
        self.status = status
        self.body = body

    @classmethod
    def of_refresh(cls, code: str, message: str) -> Refusal:
        """A refresh token that is dead."""
        return cls(401, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}})


def invalid_request(reason: str) -> Refusal:
    """A request that lacks something."""
    return Refusal(400, {"error": "invalid_request", "error_description": reason})


def invalid_grant(reason: str) -> Refusal:
    """A code or token that is not good."""
    return Refusal(400, {"error": "invalid_grant", "error_description": reason})
