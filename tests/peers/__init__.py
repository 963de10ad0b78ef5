"""Tests against peers that others wrote: Node's HTTP/2, packages of npm. Each says what it needs, and skips without."""
