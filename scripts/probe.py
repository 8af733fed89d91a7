import sys

from ila_cli import main


sys.exit(main(["probe", *sys.argv[1:]]))
