"""The stores: what the interfaces promise, kept in memory, in SQLite, or elsewhere."""

__all__: list[str] = []
