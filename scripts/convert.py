import sys

from transformers_ila.cli.main import main


sys.exit(main(["convert", *sys.argv[1:]]))
