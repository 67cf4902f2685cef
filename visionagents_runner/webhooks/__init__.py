"""Telling other services that a session has ended: signed webhooks, kept as rows, sent until they arrive.

`endpoints` reads the setting, `message` builds and signs, `transport` sends to where it may, `backoff` says when to try
again, and `sender` puts them together. The row of a delivery is written with the end of its session, in one
transaction: see `models.delivery`.
"""
