"""`python -m robustatt` is the same as `robustatt`."""

from robustatt.cli import main

main()
