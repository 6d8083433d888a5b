"""What all tests share."""

from __future__ import annotations

import hypothesis

# No deadline: machines that run several jobs at once stall for seconds. No database: CI starts from nothing.
hypothesis.settings.register_profile("spa", deadline=None, database=None, max_examples=60)
hypothesis.settings.load_profile("spa")
