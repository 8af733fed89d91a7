import sys

from ila_cli import main


sys.exit(main(["analyse", *sys.argv[1:]]))
