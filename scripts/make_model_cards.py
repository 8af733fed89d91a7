import sys

from transformers_ila.cli.main import main


sys.exit(main(["card", *sys.argv[1:]]))
