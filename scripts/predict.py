import sys

from ila_cli import main


sys.exit(main(["predict", *sys.argv[1:]]))
