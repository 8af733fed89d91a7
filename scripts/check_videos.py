import sys

from ila_cli import main


sys.exit(main(["check-videos", *sys.argv[1:]]))
