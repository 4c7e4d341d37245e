"""Writes NNN_name.sql from schemas/NNN_name.ts with `drizzle-kit generate`, whose questions it answers.

    npm install drizzle-kit@0.31.11 drizzle-orm@0.45.4
    python3 make.py

Run it in the folder with node_modules; the files come into the folder of this script.
"""

import os
import pathlib
import pty
import shutil
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# "Is title column in seeds table created or renamed from another column?": the first answer is "created".
DOWN, ENTER = b"\x1b[B", b"\r"
# Begins a question.
HIDE_CURSOR = b"\x1b[?25l"
OTHER_ANSWER = b"~"


def generate(name):
    """Runs drizzle-kit on a terminal; says "renamed" to each question."""
    command = ["npx", "drizzle-kit", "generate", "--dialect=sqlite", "--schema=schema.ts", "--out=out", f"--name={name}"]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    shown, answered = b"", 0
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
        questions = shown.split(HIDE_CURSOR)
        if len(questions) > answered + 1 and OTHER_ANSWER in questions[-1]:
            answered += 1
            for key in (DOWN, ENTER):
                time.sleep(0.3)
                os.write(terminal, key)
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit(shown.decode(errors="replace"))


shutil.rmtree("out", ignore_errors=True)
for schema in sorted(HERE.glob("schemas/*.ts")):
    shutil.copy(schema, "schema.ts")
    generate(schema.stem)
    made = list(pathlib.Path("out").glob(f"*_{schema.stem}.sql"))
    if len(made) != 1:
        sys.exit(f"{schema.stem}: drizzle-kit wrote {made}")
    shutil.copy(made[0], HERE / f"{schema.stem}.sql")
    # What is refused is not built upon.
    if schema.stem.endswith("_refused"):
        shutil.rmtree("out")
        shutil.copytree("before", "out")
    shutil.rmtree("before", ignore_errors=True)
    shutil.copytree("out", "before")
