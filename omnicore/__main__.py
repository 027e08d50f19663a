import sys

from omnicore.cli.main import main

sys.exit(main())
