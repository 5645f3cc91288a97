"""`python -m robustatt` is the same as `robustatt`."""

import sys

from robustatt.cli import main

sys.exit(main())
