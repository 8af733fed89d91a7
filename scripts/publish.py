import sys

from ila_cli import main


sys.exit(main(["publish", *sys.argv[1:]]))
