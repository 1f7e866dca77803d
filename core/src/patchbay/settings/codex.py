"""What only backends of kind `codex` take: the ChatGPT accounts behind them, and what their requests begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from patchbay.settings.errors import SettingsError

OAUTH_ISSUER = "https://auth.openai.com"
# The CLI's own, for tests: https://github.com/openai/codex
_HOME_VARIABLE = "CODEX_HOME"
_REFRESH_VARIABLE = "CODEX_REFRESH_TOKEN_URL_OVERRIDE"
_REVOKE_VARIABLE = "CODEX_REVOKE_TOKEN_URL_OVERRIDE"
_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}\Z")


def url(text: str) -> str:
    if not re.match(r"https?://[^\s/@]+(/\S*)?\Z", text):
        raise ValueError("must be an http:// or https:// URL without a user or password; a credential goes in api_key")
    return text.rstrip("/")


def is_account_name(text: str) -> bool:
    """Whether an account may be called so: a mail address, for example. A path is no name."""
    return _ACCOUNT.match(text) is not None and not text.endswith(".json")


def _account(text: str) -> str:
    if not is_account_name(text) and "/" not in text and not text.endswith(".json"):
        raise ValueError(
            f"{text!r} is neither an account's name (letters, digits, . _ @ + -) nor a path of an auth.json"
        )
    return text


class CodexConfig(BaseModel):
    """The keys of a `codex` backend beside those of every backend."""

    codex_home: str | None = Field(
        default=None,
        description="codex: the Codex CLI's directory, whose auth.json is used; left out: CODEX_HOME, else ~/.codex.",
    )
    oauth_issuer: Annotated[str, AfterValidator(url)] = Field(
        default=OAUTH_ISSUER, description="codex: where accounts sign in and tokens are renewed."
    )
    accounts: tuple[Annotated[str, AfterValidator(_account)], ...] = Field(
        default=(),
        description="codex: the accounts to use: names from `patchbay auth login codex`, paths of auth.json files; "
        "empty: all that are signed in here, and codex_home's.",
    )
    inject_instructions: str | None = Field(
        default=None,
        description="codex: a file whose text is put before each request's instructions; null: nothing is added.",
    )


CODEX_KEYS = frozenset(CodexConfig.model_fields)


@dataclass(frozen=True)
class Codex:
    """The accounts of a backend, with everything filled in.

    Attributes:
        home: The Codex CLI's directory.
        issuer: The OAuth issuer's URL.
        refresh_url: Where tokens are renewed.
        revoke_url: Where they are given back.
        accounts: Names of accounts and paths of auth.json files; empty: all there are, and that of `home`.
        inject_instructions: The file with text to put before each request's instructions.
    """

    home: Path
    issuer: str
    refresh_url: str
    revoke_url: str
    accounts: tuple[str, ...] = ()
    inject_instructions: Path | None = None

    @property
    def auth_file(self) -> Path:
        """The Codex CLI's own sign-in."""
        return self.home / "auth.json"


def resolve(config: CodexConfig, environ: Mapping[str, str]) -> Codex:
    """Fills in what a backend's configuration leaves out.

    Raises:
        SettingsError: The environment does not fit.
    """
    home = config.codex_home or environ.get(_HOME_VARIABLE, "").strip() or "~/.codex"
    issuer = config.oauth_issuer
    return Codex(
        home=_path(home, environ),
        issuer=issuer,
        refresh_url=_override(_REFRESH_VARIABLE, environ) or f"{issuer}/oauth/token",
        revoke_url=_override(_REVOKE_VARIABLE, environ) or f"{issuer}/oauth/revoke",
        accounts=tuple(
            account if is_account_name(account) else str(_path(account, environ)) for account in config.accounts
        ),
        inject_instructions=_path(config.inject_instructions, environ) if config.inject_instructions else None,
    )


def _path(text: str, environ: Mapping[str, str]) -> Path:
    if text == "~" or text.startswith("~/"):
        home = environ.get("HOME")
        return Path(home, text[2:]) if home else Path(text).expanduser()
    return Path(text)


def _override(variable: str, environ: Mapping[str, str]) -> str:
    text = environ.get(variable, "").strip()
    try:
        return url(text) if text else ""
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None
