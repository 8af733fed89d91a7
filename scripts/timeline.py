import sys

from ila_cli import main


sys.exit(main(["timeline", *sys.argv[1:]]))
