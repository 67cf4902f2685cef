from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('visionagents_runner', '0005_worker_drain_requested_at'),
    ]

    operations = [
        migrations.AddField(
            model_name='agentsession',
            name='cost',
            field=models.DecimalField(blank=True, decimal_places=10, help_text='By the price table in settings; empty: nothing is priced.', max_digits=20, null=True),
        ),
        migrations.AddField(
            model_name='agentsession',
            name='cost_currency',
            field=models.CharField(blank=True, db_default='', default='', max_length=8),
        ),
        migrations.AddField(
            model_name='agentsession',
            name='cost_unpriced',
            field=models.JSONField(blank=True, default=list, help_text='What the cost lacks, because it has no price.'),
        ),
    ]
