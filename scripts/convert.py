import sys

from ila_cli import main


sys.exit(main(["convert", *sys.argv[1:]]))
