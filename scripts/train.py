import sys

from ila_cli import main


sys.exit(main(["train", *sys.argv[1:]]))
