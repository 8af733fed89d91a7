import sys

from transformers_ila.cli.main import main


sys.exit(main(["cost", *sys.argv[1:]]))
