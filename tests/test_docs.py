"""Generated pages are up to date, and what they and the README show works."""

from tools import supported


def test_supported_primitives():
    assert supported.PATH.read_text() == supported.text(), "run python -m tools.supported"
