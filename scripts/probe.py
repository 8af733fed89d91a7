import sys

from transformers_ila.cli.main import main


sys.exit(main(["probe", *sys.argv[1:]]))
