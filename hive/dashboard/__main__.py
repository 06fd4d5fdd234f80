"""What `gltch_2_7m.py --dashboard` hands over to: the same program, with a page to open."""
import sys

from gltch_2_7m import main
from hive.dashboard.solo import Dashboard

sys.exit(main(sys.argv[1:], Dashboard))
