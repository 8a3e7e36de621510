"""Accounts that are not handed out, and what people call them.

Revision: 0003, after 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Only adds columns, which have a value where none is given: programs of the revisions before may go on writing.
oldest_writer = "0001"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("accounts", sa.Column("label", sa.Text))


def downgrade() -> None:
    # Not in a batch, which would build the table anew: to drop the old one takes everything along that refers to it.
    op.drop_column("accounts", "label")
    op.drop_column("accounts", "disabled")
