"""`python -m meditron`: the same as the `meditron` command."""

import sys

from meditron.cli import main

if __name__ == "__main__":
    sys.exit(main())
