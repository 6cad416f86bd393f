"""Sockets: the one factory, the ports of a service, the channels of a client, the health port."""
