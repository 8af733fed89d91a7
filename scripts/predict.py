import sys

from transformers_ila.cli.main import main


sys.exit(main(["predict", *sys.argv[1:]]))
