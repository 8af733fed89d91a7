import sys

from transformers_ila.cli.main import main


sys.exit(main(["demo", *sys.argv[1:]]))
