import sys

from transformers_ila.cli.main import main


sys.exit(main(["evaluate", *sys.argv[1:]]))
