"""The client: calls by name through breakers, within one budget, and events without gaps."""
