import sys

from transformers_ila.cli.main import main


sys.exit(main(["train", *sys.argv[1:]]))
