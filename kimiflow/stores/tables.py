"""The tables, declared. ``migrations/`` makes them, and a test compares the two.

Columns of ``authorizations`` stand in the order of the fields of :class:`~kimiflow.model.Authorization`, then come
those of the lease; in a database that was migrated, some stand elsewhere, and no statement goes by that. Times are Unix
seconds. Secrets are sealed before they get here, and are text.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from kimiflow.model import HOLDS_TOKENS, ON_ITS_WAY, WAITS_FOR_US, State
from kimiflow.stores.revision import HEAD

__all__ = [
    "CODED",
    "HASTENED",
    "HEAD",
    "HELD",
    "UNSETTLED",
    "accounts",
    "authorizations",
    "history",
    "marks",
    "metadata",
    "put",
    "workers",
]


def _state_in(states: frozenset[State]) -> sa.TextClause:
    # Words, not parameters: a planner takes a partial index only where it can prove that the query fits it.
    listed = ", ".join(f"'{state.value}'" for state in State if state in states)
    return sa.text(f"state IN ({listed})")


UNSETTLED: Final = _state_in(ON_ITS_WAY)
HELD: Final = _state_in(HOLDS_TOKENS)
HASTENED: Final = _state_in(WAITS_FOR_US)
CODED: Final = sa.text("code_expires_at IS NOT NULL")

metadata: Final = sa.MetaData()

accounts: Final = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("device_id", sa.Text, nullable=False),
    sa.Column("proxy", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("label", sa.Text),
    sa.Index("uq_accounts_name", "name", unique=True),
    sa.Index("ix_accounts_provider", "provider"),
)

authorizations: Final = sa.Table(
    "authorizations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("next_attempt_at", sa.Double),
    sa.Column("not_before", sa.Double),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("error_description", sa.Text),
    sa.Column("interval", sa.Double),
    sa.Column("user_code", sa.Text),
    sa.Column("verification_uri", sa.Text),
    sa.Column("verification_uri_complete", sa.Text),
    sa.Column("code_expires_at", sa.Double),
    sa.Column("origin", sa.Text),
    sa.Column("token_type", sa.Text),
    sa.Column("scope", sa.Text),
    sa.Column("token_expires_at", sa.Double),
    sa.Column("refresh_token_expires_at", sa.Double),
    sa.Column("refresh_token_digest", sa.Text),
    sa.Column("token_version", sa.Integer, nullable=False),
    sa.Column("device_code", sa.Text),
    sa.Column("access_token", sa.Text),
    sa.Column("refresh_token", sa.Text),
    sa.Column("lease_owner", sa.Text),
    # When the row may next be taken: at its next attempt while it is free, at the lease's end while it is claimed,
    # never while it rests. So whatever is due is one range of one index.
    sa.Column("claimable_at", sa.Double),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.CheckConstraint(_state_in(frozenset(State)), name="ck_authorizations_state"),
    sa.Index("ix_authorizations_account_id", "account_id"),
    sa.Index("ix_authorizations_claimable_at", "claimable_at"),
    # For the question whether another account holds a refresh token already, before it is written.
    sa.Index("ix_authorizations_refresh_token_digest", "refresh_token_digest"),
    # For the codes that are over while no server can be asked: then everything is due, and little may be taken.
    sa.Index(
        "ix_authorizations_code_expires_at",
        "code_expires_at",
        sqlite_where=CODED,
        postgresql_where=CODED,
    ),
    sa.Index(
        "uq_authorizations_on_its_way",
        "account_id",
        unique=True,
        sqlite_where=UNSETTLED,
        postgresql_where=UNSETTLED,
    ),
    sa.Index(
        "uq_authorizations_holds_tokens",
        "account_id",
        unique=True,
        sqlite_where=HELD,
        postgresql_where=HELD,
    ),
)

history: Final = sa.Table(
    "history",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("account_id", sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    # No foreign key: the history of an authorization outlives it.
    sa.Column("authorization_id", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("from_state", sa.Text),
    sa.Column("to_state", sa.Text),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("detail", sa.Text),
    sa.Index("ix_history_account_id", "account_id"),
    sqlite_autoincrement=True,
)

workers: Final = sa.Table(
    "workers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("in_flight", sa.Integer, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
)

marks: Final = sa.Table(
    "marks",
    metadata,
    # What is noted about the database itself; see ``marks.py``.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def put(table: sa.Table) -> sa.TextClause:
    """Writes one row in the place of the one with the same ``name``; every database here says it in these words."""
    names = [column.name for column in table.c]
    given = ", ".join(f":{name}" for name in names)
    set_to = ", ".join(f"{name} = excluded.{name}" for name in names if name != "name")
    return sa.text(
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({given}) "  # noqa: S608 - our own names
        f"ON CONFLICT (name) DO UPDATE SET {set_to}"
    )
