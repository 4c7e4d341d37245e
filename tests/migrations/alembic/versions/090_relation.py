import sqlalchemy as sa
from alembic import op

revision = "090"
down_revision = "080"


def upgrade():
    with op.batch_alter_table("booking") as batch:
        batch.add_column(sa.Column("venue_id", sa.Integer))
        batch.create_foreign_key("fk_booking_venue", "venue", ["venue_id"], ["id"], ondelete="SET NULL")
