import sqlalchemy as sa
from alembic import op

revision = "110"
down_revision = "100"


def upgrade():
    with op.batch_alter_table("log") as batch:
        batch.alter_column("id", type_=sa.String(24), existing_type=sa.BigInteger, existing_nullable=False)
