"""How long tests wait for what must happen: more than the busiest machine needs, as only one that fails waits so long.

Where a test is about a time, what it allows is far below this and the other outcome far above it: nothing is measured.
"""

WITHIN = 30.0  # seconds
