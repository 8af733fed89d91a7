import sys

from ila_cli import main


sys.exit(main(["app", *sys.argv[1:]]))
