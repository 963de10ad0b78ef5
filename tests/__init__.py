"""The tests of wsock; run them with ``trial --random=0 tests``."""

from hypothesis import HealthCheck, settings

# The same examples each time, however busy the machine is: a failure repeats, and slowness is none.
settings.register_profile("wsock", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wsock")
