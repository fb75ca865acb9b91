"""`python3 -m auditor` with this package's parent on the path, or `python3 tests/auditor`."""

import sys
from pathlib import Path

if not __package__:
    # Started as a directory: that directory is on the path, and its parent must be instead.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from auditor.cli import main

sys.exit(main())
