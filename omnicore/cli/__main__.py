"""`python -m omnicore.cli`: the command line."""

import sys

from omnicore.cli.main import main

sys.exit(main())
