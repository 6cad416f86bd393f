"""The wire, sans IO: frames, codec, and the table of calls under way (docs/protocol.md)."""
