import sys

from ila_cli import main


sys.exit(main(["ablate", *sys.argv[1:]]))
