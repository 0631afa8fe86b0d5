"""``python -m geomatch``."""

import sys

from geomatch.cli import main

sys.exit(main())
