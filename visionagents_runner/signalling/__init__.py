"""What a browser and a call say to each other over a WebSocket.

`wire` has the messages and their bounds, `socket` one connection with its limits, `access` who may join, `sessions`
what is told of an agent's session, and `member` the person at the other end. `consumers` puts them together.
"""
