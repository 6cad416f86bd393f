"""The one dispatch rule: which waiting work is next, and which agent performs it."""
