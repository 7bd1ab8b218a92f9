"""Policies across a network: a server, and a client that is a Policy."""
