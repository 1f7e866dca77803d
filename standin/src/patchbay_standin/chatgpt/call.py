"""One request to the ChatGPT backend's Responses endpoint."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

import msgspec

from patchbay_standin.chatgpt.quota import quota_headers, rate_limits_frame, usage_limit
from patchbay_standin.chatgpt.rules import (
    HIDDEN_MODELS,
    LITE_HEADER,
    LITE_METADATA,
    MODELS,
    check_fields,
    check_request,
    detail,
)
from patchbay_standin.errors import ProviderError
from patchbay_standin.exchange import Headers
from patchbay_standin.library import Library
from patchbay_standin.models import PLAIN_MODELS
from patchbay_standin.oauth import Accounts, Holder
from patchbay_standin.openai_responses import ResponsesCall
from patchbay_standin.openai_responses.request import Request, decode, field_names
from patchbay_standin.openai_responses.shelf import Memory
from patchbay_standin.prompt import Prompt
from patchbay_standin.script import MODEL_PREFIX, JsonObject

_encode = msgspec.json.Encoder().encode


class ChatGptCall(ResponsesCall):
    """A request with an account's access token.

    Args:
        memory: Where the response that it goes on from is found.
        accounts: Who may ask.
        library: The scripts, which are models too.
        is_socket: Whether it came as a frame over a WebSocket.
        compacts: Whether it came to the endpoint that compacts, which streams nothing.
    """

    name = "codex"
    # The real one leaves the content type of its streams out.
    stream_type: bytes | None = None
    reads_compressed = True

    def __init__(
        self, memory: Memory, accounts: Accounts, library: Library, *, is_socket: bool = False, compacts: bool = False
    ) -> None:
        super().__init__(memory, is_socket=is_socket)
        self._accounts = accounts
        self._library = library
        self._compacts = compacts
        self._is_lite = False
        self._model = ""
        self._turn_state = ""
        self.holder: Holder | None = None

    @property
    def owner(self) -> str:
        """Whom encrypted content belongs to."""
        return self.holder.account_id if self.holder is not None else ""

    @property
    def shows_output(self) -> bool:
        """The real one leaves the output of its last event empty."""
        return False

    def authenticate(self, headers: Mapping[bytes, bytes]) -> None:
        """A living access token of an account, whose id is there too; and some quota left."""
        self.holder = authenticated(headers, self._accounts)
        self._is_lite = headers.get(LITE_HEADER) == b"true"
        self._turn_state = headers.get(b"x-codex-turn-state", b"").decode("latin-1")

    def socket_preface(self) -> JsonObject | None:
        """The quotas."""
        return rate_limits_frame(self.holder) if self.holder is not None else None

    def no_such_model(self, model: str) -> ProviderError:
        """What the backend says."""
        return detail(f"The '{model}' model is not supported when using Codex with a ChatGPT account.")

    def decode(self, body: bytes) -> Request:
        """Holds the request to the backend's rules first, then to the platform's."""
        names = field_names(body)
        check_fields(names, is_socket=self.is_socket)
        request = decode(body, is_socket=self.is_socket)
        metadata = request.client_metadata or {}
        is_lite = self._is_lite or metadata.get(LITE_METADATA) == "true"
        if not self._compacts:
            check_request(request, names, is_socket=self.is_socket, is_lite=is_lite)
        if not self._knows(request.model):
            raise self.no_such_model(request.model)
        return request

    def read(self, body: bytes) -> Prompt:
        """Reads and checks a request, and what is left of the quota."""
        prompt = super().read(body)
        self._model = prompt.model
        if self.holder is not None and not prompt.warms_up:
            if self.holder.exhausted is not None:
                self.holder.report.limited += 1
                raise usage_limit(self.holder)
            self.holder.use_quota()
        return prompt

    def headers(self, number: int) -> Headers:
        """Request id, quotas, and what keeps a turn together."""
        common = [(b"x-request-id", b"%032x" % number), (b"cf-ray", b"%016x-LIS" % number)]
        if self.holder is None:
            return common
        mine = [
            (b"x-codex-turn-state", (self._turn_state or secrets.token_hex(8)).encode()),
            (b"x-models-etag", MODELS_ETAG),
            (b"x-reasoning-included", b"true"),
        ]
        if self._model and not self._model.startswith(MODEL_PREFIX):
            mine.append((b"openai-model", self._model.encode()))
        return [*common, *mine, *quota_headers(self.holder)]

    def error_body(self, error: ProviderError, number: int) -> bytes:
        """One of four shapes."""
        if error.shape == "detail":
            return _encode({"detail": error.message})
        if error.type == "usage_limit_reached":
            return _encode({"error": {"type": error.type, "message": error.message, **self._limit(error)}})
        body = super().error_body(error, number)
        if error.shape == "event":
            return _encode({"type": "error", "status": error.status, **msgspec.json.decode(body, type=JsonObject)})
        return body

    def _limit(self, error: ProviderError) -> JsonObject:
        """What is told with a used-up quota; also with one that only a script says is."""
        plan = self.holder.report.plan if self.holder is not None else ""
        resets_at = int(time.time()) + 3600
        return {"plan_type": plan, "resets_at": resets_at, "resets_in_seconds": 3600, **error.fields}

    def _knows(self, model: str) -> bool:
        known = (*MODELS, *HIDDEN_MODELS, *PLAIN_MODELS)
        return model in known or model.startswith(MODEL_PREFIX) or model in self._library.names()


MODELS_ETAG = b'"standin-models-1"'


def authenticated(headers: Mapping[bytes, bytes], accounts: Accounts) -> Holder:
    """The account that a request is of. Raises ProviderError."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer" or not value:
        raise detail("Unauthorized", status=401)
    token = accounts.access_tokens.get(value.decode("latin-1"))
    if token is None:
        raise detail("Could not parse your authentication token. Please try signing in again.", status=401)
    if token.is_dead or token.expires <= time.time():
        token.holder.report.unauthorized += 1
        raise ProviderError(
            status=401,
            message="Provided authentication token is expired. Please try signing in again.",
            type="invalid_request_error",
            code="token_expired",
        )
    account = headers.get(b"chatgpt-account-id", b"").decode("latin-1")
    if account != token.holder.account_id:
        token.holder.report.unauthorized += 1
        raise detail(f"The account {account or '(none)'} is not one of this token's.", status=401)
    return token.holder
