"""Writes NNN_name.sql: all that Django 5.2 sends to SQLite while it carries out the migrations below.

    pip install django==5.2.*
    python make.py

The statements come from SQLite's own trace, so PRAGMA, BEGIN, SAVEPOINT and COMMIT are among them, and
arguments stand in the text. NNN_rows.sql are run between the migrations, as they are.
"""

import pathlib

import django
from django.conf import settings
from django.db import connection, migrations, models
from django.db.migrations.executor import MigrationExecutor
from django.db.models import CASCADE, PROTECT, SET_NULL, Q
from django.db.models.functions import Lower, Now

HERE = pathlib.Path(__file__).resolve().parent
APP = "kennel"

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[],
    USE_TZ=True,
)
django.setup()


def link(model, on_delete=CASCADE, **options):
    return models.ForeignKey(to=f"{APP}.{model}", on_delete=on_delete, **options)


def key(field=models.BigAutoField):
    return ("id", field(primary_key=True, serialize=False))


def fill_tags(apps, editor):
    """A data migration: reads, updates one by one, inserts many."""
    dog, trait = apps.get_model(APP, "Dog"), apps.get_model(APP, "Trait")
    for one in dog.objects.order_by("id"):
        one.tag = f"{one.name[:3].lower()}-{one.pk}; 100%"
        one.save(update_fields=["tag"])
    trait.objects.bulk_create([trait(id=11, label="calm"), trait(id=12, label="it's loud")])
    dog.objects.filter(traits__label="small").update(weight=4)
    trait.objects.get(label="old").delete()


STEPS = {
    "010_init": [
        migrations.CreateModel("Owner", [
            key(), ("name", models.CharField(max_length=80)), ("email", models.EmailField(unique=True)),
            ("referrer", link("owner", SET_NULL, null=True, blank=True)),
        ]),
        migrations.CreateModel("Breed", [("code", models.CharField(max_length=8, primary_key=True, serialize=False))]),
        migrations.CreateModel("Trait", [key(), ("label", models.CharField(max_length=30, unique=True))]),
        migrations.CreateModel("Dog", [
            key(), ("name", models.CharField(max_length=40)), ("weight", models.FloatField(default=1.5)),
            ("owner", link("owner")), ("breed", link("breed", PROTECT, null=True)),
            ("traits", models.ManyToManyField(to=f"{APP}.trait", related_name="dogs")),
        ]),
        migrations.CreateModel("Visit", [
            key(), ("owner", link("owner")), ("reason", models.TextField(default="")),
            ("fee", models.DecimalField(max_digits=8, decimal_places=2, default=0)),
        ]),
        migrations.CreateModel("Weighing", [
            key(models.BigIntegerField), ("grams", models.IntegerField()), ("scan", models.BinaryField(null=True)),
        ]),
    ],
    "020_charges": [
        migrations.CreateModel("Charge", [
            ("pk", models.CompositePrimaryKey("visit_id", "number", blank=True, editable=False, primary_key=True)),
            ("visit", link("visit")), ("number", models.IntegerField()),
            ("dog", link("dog", SET_NULL, null=True)), ("cents", models.IntegerField(default=0)),
        ]),
    ],
    "030_fields": [
        migrations.AddField("Dog", "tag", models.CharField(max_length=60, default="")),
        migrations.AddField("Visit", "paid", models.BooleanField(default=False)),
        migrations.AddField("Visit", "seen", models.DateTimeField(null=True)),
        migrations.AddField("Charge", "note", models.TextField(default="none", db_default="none")),
        migrations.AddField("Weighing", "unit", models.CharField(max_length=4, default="g")),
    ],
    "040_data": [migrations.RunPython(fill_tags, migrations.RunPython.noop)],
    "050_constraints": [
        migrations.AlterField("Dog", "tag", models.CharField(max_length=60, unique=True)),
        migrations.AddConstraint("Dog", models.CheckConstraint(condition=Q(weight__gt=0), name="dog_weighs")),
        migrations.AddConstraint("Owner", models.UniqueConstraint(
            fields=["name"], condition=Q(referrer__isnull=True), name="owner_name_first")),
        migrations.AddConstraint("Visit", models.CheckConstraint(condition=Q(fee__gte=0), name="visit_fee")),
        migrations.AddIndex("Charge", models.Index(fields=["dog", "-cents"], name="charge_dog")),
        migrations.AddIndex("Trait", models.Index(Lower("label"), name="trait_lower")),
    ],
    "060_alter": [
        migrations.AlterField("Visit", "fee", models.FloatField(null=True, default=None)),
        migrations.AlterField("Charge", "cents", models.BigIntegerField(null=True)),
        migrations.AlterField("Weighing", "grams", models.CharField(max_length=20, null=True)),
        migrations.AlterField("Dog", "owner", link("owner", SET_NULL, null=True)),
        migrations.RemoveField("Weighing", "scan"),
        migrations.RemoveConstraint("Dog", "dog_weighs"),
    ],
    "070_renames": [
        migrations.RenameField("Visit", "reason", "cause"),
        migrations.RenameModel("Weighing", "Measure"),
        migrations.RenameModel("Trait", "Feature"),
        migrations.RenameField("Breed", "code", "short"),
        migrations.AlterModelTable("Measure", "measures"),
    ],
    "080_vets": [
        migrations.CreateModel("Vet", [
            key(models.SmallIntegerField), ("name", models.CharField(max_length=40, db_collation="NOCASE")),
            ("since", models.DateTimeField(db_default=Now())),
        ], options={"constraints": [models.UniqueConstraint(fields=["name"], name="vet_name")]}),
    ],
    "082_relations": [
        migrations.AddField("Visit", "vet", link("vet", PROTECT, null=True)),
        migrations.AddField("Owner", "vets", models.ManyToManyField(to=f"{APP}.vet")),
        migrations.RemoveIndex("Charge", "charge_dog"),
        migrations.RemoveField("Charge", "dog"),
    ],
    "090_key_type": [
        migrations.AlterField("Vet", "id", models.CharField(max_length=12, primary_key=True, serialize=False)),
        migrations.RemoveField("Dog", "traits"),
        migrations.DeleteModel("Feature"),
    ],
    "100_shard_key": [
        migrations.AlterField("Measure", "id", models.CharField(max_length=30, primary_key=True, serialize=False)),
    ],
}


def write(name, run):
    statements = []
    connection.ensure_connection()
    connection.connection.set_trace_callback(statements.append)
    run()
    connection.connection.set_trace_callback(None)
    # A line that begins with two dashes tells of a trigger's or SQLite's own work.
    lines = [text.rstrip().rstrip(";") + ";\n" for text in statements if not text.startswith("--")]
    (HERE / f"{name}.sql").write_text("".join(lines))


executor = MigrationExecutor(connection)
write("000_django_migrations", executor.recorder.ensure_schema)
state = executor.loader.project_state()
for name in sorted([*STEPS, *(path.stem for path in HERE.glob("*_rows.sql"))]):
    if name not in STEPS:
        connection.connection.executescript((HERE / f"{name}.sql").read_text())
        continue
    migration = migrations.Migration(f"0{name}", APP)
    migration.operations = STEPS[name]

    def apply():
        global state
        state = executor.apply_migration(state, migration)

    write(name, apply)
