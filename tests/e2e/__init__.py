"""Tests over real sockets against a server of its own process, as its users run it."""
