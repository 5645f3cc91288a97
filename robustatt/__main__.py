"""`python -m robustatt` is the same as `robustatt`."""

import sys

from robustatt.cli import main

if __name__ == "__main__":
    sys.exit(main())
