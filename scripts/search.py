import sys

from ila_cli import main


sys.exit(main(["search", *sys.argv[1:]]))
