"""Lets tests import each other's support as tests.<folder>.<module>."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
