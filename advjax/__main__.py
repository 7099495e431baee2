"""`python -m advjax`: the command line."""

import sys

from advjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
