"""Programs that measure the server, for longer than a test may."""
