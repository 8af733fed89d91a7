import sys

from ila_cli import main


sys.exit(main(["shard", *sys.argv[1:]]))
