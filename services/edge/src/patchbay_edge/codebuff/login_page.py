"""The page on which a user signs their Codebuff CLI in: plain HTML, no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from html import escape

from starlette.responses import HTMLResponse

from patchbay.state.codebuff_logins import Login

# How clients name themselves. Anything else could be what somebody who sends the page's address wants to be read on it.
_NAME = re.compile(r"[\w.:+/=-]{1,100}", re.ASCII)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:4em auto;padding:0 1em}"
    "code{font-size:1.1em;overflow-wrap:anywhere}.error{color:#b00020}input,button{font:inherit;padding:.4em .6em}"
    "input{width:100%;box-sizing:border-box;margin:.3em 0 1em}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # With `no-referrer` browsers would not say which page the form is from.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


def form_page(
    login_id: str, login: Login, *, takes_key: bool, takes_none: bool, error: str = "", status: int = 200
) -> HTMLResponse:
    """Asks for a key, or whether to go on without one.

    Args:
        takes_key: Whether a key is of any use.
        takes_none: Whether none is needed.
        error: What was wrong of the last try.
    """
    begun = datetime.fromtimestamp(login.begun_at, UTC).strftime("%H:%M:%S UTC")
    name = login.fingerprint_id
    client = f"The client <code>{escape(name)}</code>" if _NAME.fullmatch(name) else "A client"
    asks = (
        f"{client} began this at {begun}. Go on only if you have just "
        "started it yourself, and if the address that your terminal shows ends with "
        f"<strong><code>{escape(login_id[-9:])}</code></strong>: else somebody else gets your key."
    )
    parts = [f"<p>{asks}</p>"]
    if error:
        parts.append(f'<p class="error" role="alert">{escape(error)}</p>')
    parts.append('<form method="post">')
    if takes_key:
        parts.append(
            '<label>Patchbay API key<input type="password" name="key" required autofocus autocomplete="off"></label>'
            "<button>Sign in</button>"
        )
    if takes_none:
        parts.append(' <button name="without_key" value="1" formnovalidate>Go on without a key</button>')
    parts.append("</form>")
    return _page("Sign in to Patchbay", "\n".join(parts), status)


def message_page(title: str, message: str, status: int = 200) -> HTMLResponse:
    """Says how it has ended."""
    return _page(title, f"<p>{escape(message)}</p>", status)


def _page(title: str, body: str, status: int) -> HTMLResponse:
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
    return HTMLResponse(text, status_code=status, headers=_HEADERS)
