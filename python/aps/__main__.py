"""`python -m aps`: the command line."""

import sys

from aps.cli import main

sys.exit(main())
