import sqlalchemy as sa
from alembic import op

revision = "100"
down_revision = "090"


def upgrade():
    with op.batch_alter_table("venue") as batch:
        batch.alter_column("id", type_=sa.String(12), existing_type=sa.Integer, existing_nullable=False)
    op.drop_table("play_genre")
    op.drop_table("category")
