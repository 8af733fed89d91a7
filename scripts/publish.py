import sys

from transformers_ila.cli.main import main


sys.exit(main(["publish", *sys.argv[1:]]))
