"""The VRAM leases on one host's own cards, as its supervisor keeps them; the rules they go by are in common/vram."""
