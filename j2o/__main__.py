"""`python -m j2o` is the command `j2o`."""

import sys

from j2o.cli import main

if __name__ == "__main__":
    sys.exit(main())
