from django.db import migrations


class Migration(migrations.Migration):
    """The table keeps its name, so that the database changes nothing: versions with either name share it."""

    dependencies = [
        ('visionagents_runner', '0008_view_error'),
    ]

    operations = [
        migrations.AlterModelTable(
            name='turn',
            table='visionagents_runner_turn',
        ),
        migrations.RenameModel(
            old_name='Turn',
            new_name='Chore',
        ),
    ]
