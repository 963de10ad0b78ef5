"""The only code that touches a transport: WebSocket, HTTP, and the door that tells them apart."""

__all__: list[str] = []
