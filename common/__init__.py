"""The rooms both hosts share; imports between them go down the floors only (docs/ARCHITECTURE.md)."""
