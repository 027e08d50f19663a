import sys

from omnicore.cli import main

sys.exit(main())
