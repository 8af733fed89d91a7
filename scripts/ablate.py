import sys

from transformers_ila.cli.main import main


sys.exit(main(["ablate", *sys.argv[1:]]))
