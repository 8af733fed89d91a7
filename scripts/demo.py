import sys

from ila_cli import main


sys.exit(main(["demo", *sys.argv[1:]]))
