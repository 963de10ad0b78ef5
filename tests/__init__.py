"""The tests of wsock; run them with ``trial --random=0 tests``."""
