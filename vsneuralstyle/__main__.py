"""`python -m vsneuralstyle`: the command `neuralstyle`."""

import sys

from vsneuralstyle.cli import main

if __name__ == "__main__":
    sys.exit(main())
