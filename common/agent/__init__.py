"""The agent library: typed methods become verbs; registration, heartbeats and health come with it."""
