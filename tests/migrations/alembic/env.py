"""Alembic's environment: as `alembic init` writes it, with batch mode, and foreign keys off as its documentation says."""

from alembic import context
from sqlalchemy import text



def run():
    with context.begin_transaction():
        context.run_migrations()


def run_online(connection):
    connection.execute(text("PRAGMA foreign_keys=OFF"))
    connection.commit()
    context.configure(connection=connection, render_as_batch=True)
    run()
    connection.commit()
    connection.execute(text("PRAGMA foreign_keys=ON"))
    connection.commit()


if context.is_offline_mode():
    context.configure(dialect_name="sqlite", transactional_ddl=True)
    run()
else:
    run_online(context.config.attributes["connection"])
