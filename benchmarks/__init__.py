"""Measures Tandem against the bare libraries it stands on and the ones it stands beside: `make bench`."""
