"""When a refresh token ends, where the server says so.

Revision: 0004, after 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Only adds a column that may be empty: programs of the revisions before may go on writing.
oldest_writer = "0001"


def upgrade() -> None:
    op.add_column("authorizations", sa.Column("refresh_token_expires_at", sa.Double))


def downgrade() -> None:
    # Not in a batch, which would build the table anew: to drop the old one takes everything along that refers to it.
    op.drop_column("authorizations", "refresh_token_expires_at")
