import sys

from ila_cli import main


sys.exit(main(["card", *sys.argv[1:]]))
