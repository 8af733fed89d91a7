import sys

from transformers_ila.cli.main import main


sys.exit(main(["analyse", *sys.argv[1:]]))
