import sqlalchemy as sa
from alembic import op

revision = "030"
down_revision = "020"


def upgrade():
    op.add_column("play", sa.Column("minutes", sa.Integer, server_default="90", nullable=False))
    op.add_column("booking", sa.Column("note", sa.Text))
    op.create_index("ix_play_short", "play", ["minutes"], sqlite_where=sa.text("minutes < 100"))
    op.execute("UPDATE booking SET note = 'it''s; ' || status WHERE id = 41")
    op.bulk_insert(sa.table("genre", sa.column("code", sa.String), sa.column("label", sa.String)), [{"code": "farc", "label": "Farce"}])
