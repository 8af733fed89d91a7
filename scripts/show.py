import sys

from ila_cli import main


sys.exit(main(["show", *sys.argv[1:]]))
