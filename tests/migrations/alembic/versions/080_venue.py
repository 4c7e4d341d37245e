import sqlalchemy as sa
from alembic import op

revision = "080"
down_revision = "070"


def upgrade():
    op.create_table(
        "venue",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("city", sa.String(40), nullable=False),
    )
