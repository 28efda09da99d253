"""``python -m probe_exporter``."""

import sys

from probe_exporter.cli import main

if __name__ == "__main__":
    sys.exit(main())
