import sys

from ila_cli import main


sys.exit(main(["evaluate-retrieval", *sys.argv[1:]]))
