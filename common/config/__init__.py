"""Startup files and settings: their schema, and the loader that finds every problem at once."""
