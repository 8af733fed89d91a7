"""`python -m transformers_ila VERB ...`, for launchers that take a module."""

import sys

from ila_cli import main


if __name__ == "__main__":
    sys.exit(main())
