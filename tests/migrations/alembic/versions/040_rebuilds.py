import sqlalchemy as sa
from alembic import op

revision = "040"
down_revision = "030"


def upgrade():
    with op.batch_alter_table("person") as batch:
        batch.alter_column("rank", server_default="lead", existing_type=sa.String(10), existing_nullable=False)
        batch.add_column(sa.Column("born", sa.Date))
    with op.batch_alter_table("booking") as batch:
        batch.alter_column("price", type_=sa.Float, nullable=False, server_default="0")
        batch.drop_column("note")
    with op.batch_alter_table("play", recreate="always") as batch:
        batch.alter_column("acts", nullable=False, existing_type=sa.SmallInteger)
        batch.drop_constraint("ck_play_acts", type_="check")
    with op.batch_alter_table("logline", recreate="always") as batch:
        batch.alter_column("kind", type_=sa.Text, server_default="info")
