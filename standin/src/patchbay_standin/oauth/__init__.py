"""Accounts and their OAuth issuer."""

from __future__ import annotations

from patchbay_standin.oauth.accounts import Accounts, Holder
from patchbay_standin.oauth.issuer import Issuer
from patchbay_standin.oauth.spec import Account, AccountReport, DeviceFlow, Quota, RefreshFault, Tokens

__all__ = [
    "Account",
    "AccountReport",
    "Accounts",
    "DeviceFlow",
    "Holder",
    "Issuer",
    "Quota",
    "RefreshFault",
    "Tokens",
]
