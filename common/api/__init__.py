"""The vocabulary of the wire: one file per service with its requests, replies and events, and the catalog of them all."""
