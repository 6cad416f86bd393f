"""The other hosts' services and agents on this host's loopback, so that who says `localhost` reaches them."""
