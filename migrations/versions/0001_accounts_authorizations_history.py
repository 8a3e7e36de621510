"""Accounts, authorizations and their history.

Revision: 0001, the first
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ON_ITS_WAY = "state IN ('requested', 'pending', 'slow_down')"
HOLDS_TOKENS = "state IN ('granted', 'refreshing')"
ANY = "state IN ('requested', 'pending', 'slow_down', 'granted', 'refreshing', 'denied', 'expired')"

CODED = "code_expires_at IS NOT NULL"


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("device_id", sa.Text, nullable=False),
        sa.Column("proxy", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("uq_accounts_name", "accounts", ["name"], unique=True)
    op.create_index("ix_accounts_provider", "accounts", ["provider"])

    op.create_table(
        "authorizations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
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
        sa.Column("token_type", sa.Text),
        sa.Column("scope", sa.Text),
        sa.Column("token_expires_at", sa.Double),
        sa.Column("token_version", sa.Integer, nullable=False),
        sa.Column("device_code", sa.Text),
        sa.Column("access_token", sa.Text),
        sa.Column("refresh_token", sa.Text),
        sa.Column("lease_owner", sa.Text),
        sa.Column("claimable_at", sa.Double),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.CheckConstraint(ANY, name="ck_authorizations_state"),
    )
    op.create_index("ix_authorizations_account_id", "authorizations", ["account_id"])
    op.create_index("ix_authorizations_claimable_at", "authorizations", ["claimable_at"])
    op.create_index(
        "ix_authorizations_code_expires_at",
        "authorizations",
        ["code_expires_at"],
        sqlite_where=sa.text(CODED),
        postgresql_where=sa.text(CODED),
    )
    for name, states in (("on_its_way", ON_ITS_WAY), ("holds_tokens", HOLDS_TOKENS)):
        op.create_index(
            f"uq_authorizations_{name}",
            "authorizations",
            ["account_id"],
            unique=True,
            sqlite_where=sa.text(states),
            postgresql_where=sa.text(states),
        )

    op.create_table(
        "history",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("authorization_id", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("from_state", sa.Text),
        sa.Column("to_state", sa.Text),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("detail", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_history_account_id", "history", ["account_id"])


def downgrade() -> None:
    op.drop_table("history")
    op.drop_table("authorizations")
    op.drop_table("accounts")
