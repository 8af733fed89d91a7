import sys

from ila_cli import main


sys.exit(main(["cost", "--tables", *sys.argv[1:]]))
