"""Writes NNN_name.sql: all that Alembic sends to SQLite while it upgrades to the versions of this folder.

    pip install alembic==1.20.1 sqlalchemy==2.1.9
    python make.py

The statements come from SQLite's own trace, so PRAGMA, BEGIN and COMMIT are among them, and arguments stand
in the text. What reads the schema only, for Alembic to know the table that it rebuilds, is left out.
NNN_rows.sql are run between the versions, as they are. Alembic orders the constraints of a rebuilt table
another way in each run. 030_offline.sql is what `alembic upgrade --sql` prints.
"""

import io
import pathlib

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event

HERE = pathlib.Path(__file__).resolve().parent
READS = ("PRAGMA main.", "PRAGMA temp.", "SELECT ", "--")

engine = create_engine("sqlite://")
event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
config = Config()
config.set_main_option("script_location", str(HERE))
config.set_main_option("path_separator", "os")


with engine.connect() as connection:
    config.attributes["connection"] = connection
    driver = connection.connection.driver_connection
    for name in sorted(path.stem for path in (*HERE.glob("versions/*.py"), *HERE.glob("*_rows.sql"))):
        path = HERE / f"{name}.sql"
        if name.endswith("_rows"):
            driver.executescript(path.read_text())
        elif name.endswith("_offline"):
            number = int(name[:3])
            config.output_buffer = io.StringIO()
            command.upgrade(config, f"{number - 10:03}:{number:03}", sql=True)
            path.write_text(config.output_buffer.getvalue())
            driver.executescript(path.read_text())
        else:
            statements = []
            driver.set_trace_callback(statements.append)
            command.upgrade(config, name[:3])
            driver.set_trace_callback(None)
            lines = [text.strip().rstrip(";") + ";\n" for text in statements if not text.strip().startswith(READS)]
            path.write_text("".join(lines))
