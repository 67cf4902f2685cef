"""A real fleet: processes of ``manage.py serveagents`` on real databases and a real Redis, and what breaks them.

``CLUSTER=1 tests/run tests/cluster`` runs the short versions, ``python -m tests.cluster`` the long ones.
"""
