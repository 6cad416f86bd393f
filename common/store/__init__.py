"""What a service remembers: the protocol, and the backends that keep it."""
