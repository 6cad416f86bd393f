"""The durable task queue: work that is done at least once, by an agent of either host."""
