"""The last stage: predictions, events and health out over ZeroMQ, and control requests in.

`schema` is the wire contract, `publisher` and `control` each own a thread with its socket
(`service`), `endpoint` says where they may listen. See `docs/protocol.md`.
"""
