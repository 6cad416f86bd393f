"""Managed models of one host: engines started where there is room when someone asks, and put away when room is wanted."""
