import sqlalchemy as sa
from alembic import op

revision = "070"
down_revision = "060"


def upgrade():
    with op.batch_alter_table("booking") as batch:
        batch.alter_column("price", new_column_name="cost")
    with op.batch_alter_table("play", recreate="always") as batch:
        batch.alter_column("minutes", new_column_name="length")
    op.rename_table("logline", "log")
    op.rename_table("genre", "category")
