import sys

from ila_cli import main


sys.exit(main(["evaluate", *sys.argv[1:]]))
