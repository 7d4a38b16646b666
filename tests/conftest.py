"""Options of the test-suite."""


def pytest_addoption(parser):
    parser.addoption(
        "--update", action="store_true", help="write what passes give into tests/golden"
    )
