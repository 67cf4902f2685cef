from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('visionagents_runner', '0004_webhookdelivery'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='worker',
            options={'ordering': ('-started_at',), 'permissions': (('drain_worker', 'Can drain workers'),)},
        ),
        migrations.AddField(
            model_name='worker',
            name='drain_requested_at',
            field=models.DateTimeField(blank=True, help_text='An operator wants it to take no new sessions; empty: nobody does.', null=True),
        ),
    ]
