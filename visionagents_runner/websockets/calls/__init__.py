"""What a browser and a call say to each other over a WebSocket, whichever worker the call's agent runs on.

`wire` has the messages and their bounds, `socket` one connection with its limits, `client` who is at its other end,
`access` whether they may join, `whereabouts` and `following` where their call's agent is, `member` their place in a
room of this process, and `sessions` what is told of an agent's session. `far` and `near` are the two halves of a place
in the room of another worker: `relay` carries what goes between them, and `relaydesk` hands it out. `consumers` puts
them together.
"""
