"""``python -m alf``: the same as ``alf``."""

from __future__ import annotations

import sys

from alf._cli import main

if __name__ == "__main__":
    sys.exit(main())
