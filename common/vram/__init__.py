"""VRAM decisions shared by ResourceManager and the supervisors: ledger, lease table, placement, waiting."""
