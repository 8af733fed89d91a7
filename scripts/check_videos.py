import sys

from transformers_ila.cli.main import main


sys.exit(main(["check-videos", *sys.argv[1:]]))
