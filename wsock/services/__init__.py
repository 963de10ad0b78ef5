"""The work of the server: each service is handed its store and its clock, and knows neither's class.

Nothing is imported here, so that a program which needs one service loads only that one.
"""

__all__: list[str] = []
