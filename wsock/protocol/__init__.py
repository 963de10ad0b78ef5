"""The wire protocol, pure: no I/O, no clock, no Deferred."""

__all__: list[str] = []
