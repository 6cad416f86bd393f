"""Engines and configurations of other tools into managed models: what can be translated, and what cannot."""
