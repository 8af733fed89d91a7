import sys

from ila_cli import main


sys.exit(main(["stream", *sys.argv[1:]]))
