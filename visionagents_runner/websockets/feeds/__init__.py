"""Live feeds: what happens in one session, and which sessions there are, over WebSockets.

What is kept comes from the database, in order, by its number; what else there is (recorder, news of this process,
channel layer) only says when to look there. Partial words alone travel by themselves, since nobody keeps them.

`access` says who may follow what; `session_viewer` and `list_viewer` are the clients, `session_hub` and `list_hub` what
all viewers of this process share, `queries` what they look up; `publisher` tells the viewers in other processes by way
of `messaging.layer`.
"""
