"""Hostile input of every kind, thrown at a real server while a second call plays: ``python -m tests.hostile``.

What is measured: how long one callback holds the server's event loop (`watch`, inside the server), how much of the
second call's sound is missing or late (`player`, a process of its own), and the server's memory and descriptors.
"""
