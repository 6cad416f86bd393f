"""The contestants, one file each; each file's PEER fulfils benchmarks.peer.Peer."""
