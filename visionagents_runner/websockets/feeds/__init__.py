"""Live feeds: what happens in one session, and which sessions there are, over WebSockets.

What is kept comes from the database, in order, by its number; what else there is (recorder, news of this process,
channel layer) only says when to look there. Partial words alone travel by themselves, since nobody keeps them.

`viewer` and `listviewer` are the clients, `hub` and `lists` what all viewers of this process share, `desk` tells the
viewers in other processes by way of `link`.
"""
