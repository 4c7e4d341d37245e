import sqlalchemy as sa
from alembic import op

revision = "060"
down_revision = "050"


def upgrade():
    with op.batch_alter_table("play") as batch:
        batch.drop_constraint("fk_play_author", type_="foreignkey")
        batch.create_foreign_key("fk_play_writer", "person", ["author_id"], ["id"], ondelete="SET NULL")
        batch.alter_column("author_id", nullable=True, existing_type=sa.Integer)
        batch.create_unique_constraint("uq_play_title", ["title", "author_id"])
    with op.batch_alter_table("person") as batch:
        batch.drop_constraint("uq_person_name", type_="unique")
        batch.create_check_constraint("ck_person_name", "name <> ''")
    with op.batch_alter_table("seat") as batch:
        batch.alter_column("row", type_=sa.Integer, server_default=None, existing_type=sa.String(3))
        batch.create_check_constraint("ck_seat_number", "number > 0")
    op.drop_index("ix_play_short", table_name="play")
