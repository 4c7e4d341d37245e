import sqlalchemy as sa
from alembic import op

revision = "050"
down_revision = "040"


def upgrade():
    connection = op.get_bind()
    for key, title in connection.execute(sa.text("SELECT id, title FROM play ORDER BY id")).all():
        update = sa.text("UPDATE play SET title = :title WHERE id = :id")
        connection.execute(update, {"title": f"{title} ({key})", "id": key})
    connection.execute(sa.text("INSERT INTO person (id, name, agent_id) VALUES (9, :name, 1)"), {"name": "Zoë; the 9th"})
    connection.execute(sa.text("DELETE FROM logline WHERE id = 2"))
