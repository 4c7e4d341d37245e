import sqlalchemy as sa
from alembic import op

revision = "020"
down_revision = "010"


def upgrade():
    op.create_table(
        "seat",
        sa.Column("booking_id", sa.Integer, sa.ForeignKey("booking.id", name="fk_seat_booking", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("play_id", sa.Integer, sa.ForeignKey("play.id", name="fk_seat_play", ondelete="RESTRICT"), nullable=False),
        sa.Column("row", sa.String(3), server_default="A"),
    )
