"""A Kimi-compatible authorization server on loopback, and the API behind it.

Both misbehave on demand, and remember how their clients did.

- `Sandbox` runs it on a socket, in the running loop or in a thread; `serve` runs it until Ctrl-C.
- `Authority` and `Service` are its logic without sockets or clocks, for simulations.
- `kimiflow.sandbox.faults` says what can go wrong, `kimiflow.sandbox.log` what can be learned afterwards.

It knows nothing of the rest of kimiflow, which it judges.
"""

from __future__ import annotations

from kimiflow.sandbox.api import API_BASE
from kimiflow.sandbox.authority import Authority
from kimiflow.sandbox.effects import Delivery, Ending
from kimiflow.sandbox.faults import Fault, FaultError, Faults, describe_faults, parse_fault
from kimiflow.sandbox.log import Log, LogEntry
from kimiflow.sandbox.records import AccessToken, Exchange, PendingCode, Reply, UserCodeError
from kimiflow.sandbox.server import Sandbox, serve
from kimiflow.sandbox.service import DEVICE_AUTHORIZATION_PATH, REVOCATION_PATH, TOKEN_PATH, Service
from kimiflow.sandbox.settings import KIMI_CLIENT_ID, Policy, Settings, parse_policy
from kimiflow.sandbox.threads import ThreadedSandbox

__all__ = [
    "API_BASE",
    "DEVICE_AUTHORIZATION_PATH",
    "KIMI_CLIENT_ID",
    "REVOCATION_PATH",
    "TOKEN_PATH",
    "AccessToken",
    "Authority",
    "Delivery",
    "Ending",
    "Exchange",
    "Fault",
    "FaultError",
    "Faults",
    "Log",
    "LogEntry",
    "PendingCode",
    "Policy",
    "Reply",
    "Sandbox",
    "Service",
    "Settings",
    "ThreadedSandbox",
    "UserCodeError",
    "describe_faults",
    "parse_fault",
    "parse_policy",
    "serve",
]
