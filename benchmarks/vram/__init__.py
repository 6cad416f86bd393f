"""Replays real traces through Tandem's decisions about VRAM, beside the rules of other tools written from their descriptions."""
