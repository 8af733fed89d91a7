import sys

from transformers_ila.cli.main import main


sys.exit(main(["cost", "--tables", *sys.argv[1:]]))
