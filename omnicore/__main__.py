"""`python -m omnicore`: the command line."""

import sys

from omnicore.cli.main import main

sys.exit(main())
