"""What a browser and a call say to each other over a WebSocket, whichever worker the call's agent runs on.

`client` is who is at the other end of a socket, `access` whether they may join, `location` and `relocation` where their
call's agent is, `member` their place in a room of this process, `sessions` and `events` what they are told. For those
who are in the room of another worker there are `relayed_client` here and `relayed_member` there; `relay` is each
worker's side of what goes between them, and `other_worker` carries it.
"""
