import sqlalchemy as sa
from alembic import op

revision = "010"
down_revision = None


def upgrade():
    op.create_table(
        "person",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("agent_id", sa.Integer, sa.ForeignKey("person.id", name="fk_person_agent", ondelete="SET NULL")),
        sa.Column("rank", sa.String(10), server_default="extra", nullable=False),
        sa.UniqueConstraint("name", name="uq_person_name"),
    )
    op.create_table(
        "genre",
        sa.Column("code", sa.String(4), primary_key=True),
        sa.Column("label", sa.Unicode(30, collation="NOCASE"), nullable=False),
    )
    op.create_table(
        "play",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("author_id", sa.Integer, nullable=False),
        sa.Column("acts", sa.SmallInteger, server_default=sa.text("5")),
        sa.Column("script", sa.LargeBinary),
        sa.ForeignKeyConstraint(["author_id"], ["person.id"], name="fk_play_author", ondelete="CASCADE"),
        sa.CheckConstraint("acts > 0", name="ck_play_acts"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_play_title", "play", ["title"])
    op.create_table(
        "play_genre",
        sa.Column("play_id", sa.Integer, sa.ForeignKey("play.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("genre_code", sa.String(4), sa.ForeignKey("genre.code", ondelete="CASCADE", onupdate="CASCADE"), primary_key=True),
    )
    op.create_table(
        "booking",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("person_id", sa.Integer, sa.ForeignKey("person.id", name="fk_booking_person", ondelete="CASCADE"), nullable=False),
        sa.Column("status", sa.Enum("held", "paid", name="ck_status", create_constraint=True), nullable=False),
        sa.Column("price", sa.Numeric(8, 2)),
    )
    op.create_table(
        "logline",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("kind", sa.String(8)),
        sa.Column("data", sa.JSON),
    )
