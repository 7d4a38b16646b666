"""What several test files share."""

import re


def stable_id(value):
    """The name of a parameter in a test's id: its repr, short, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:40]
