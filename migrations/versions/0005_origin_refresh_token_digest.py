"""Where the secrets of an authorization may go, and which refresh tokens are the same.

Revision: 0005, after 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Only adds columns that may be empty: programs of the revisions before may go on writing.
oldest_writer = "0001"


def upgrade() -> None:
    op.add_column("authorizations", sa.Column("origin", sa.Text))
    op.add_column("authorizations", sa.Column("refresh_token_digest", sa.Text))
    op.create_index("ix_authorizations_refresh_token_digest", "authorizations", ["refresh_token_digest"])


def downgrade() -> None:
    # Not in a batch, which would build the table anew: to drop the old one takes everything along that refers to it.
    op.drop_index("ix_authorizations_refresh_token_digest", "authorizations")
    op.drop_column("authorizations", "refresh_token_digest")
    op.drop_column("authorizations", "origin")
