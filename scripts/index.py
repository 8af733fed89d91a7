import sys

from ila_cli import main


sys.exit(main(["index", *sys.argv[1:]]))
