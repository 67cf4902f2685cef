"""What tests need of the machine that they run on: programs, recordings, servers. ``tests/run`` gets it.

``requirements`` knows what it is and where it is found; ``install`` installs it; ``servers`` runs servers for as long
as the tests take; ``left_out`` tells, after them, which were left out for want of what. The first two are run before
anything is installed: they take the standard library only. ``versions`` runs a few tests on other Pythons and Djangos.
"""
