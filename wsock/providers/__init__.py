"""The push services of the platforms: browsers, Firebase, Apple. Each module sends to one of them.

A provider knows its service's protocol, limits and answers, and nothing of members, channels or stores.
"""

__all__: list[str] = []
