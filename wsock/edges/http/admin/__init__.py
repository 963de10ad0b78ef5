"""The control plane over HTTP, a module for each kind of thing. What is done is done by the services."""
