"""Measure retrieval: how often the videos of a text are found among all videos, and the texts of a video among all.

Videos and texts are a table or JSON lines of paths and captions (`path,caption`; several rows a video), or what `ila
evaluate` takes: a folder with one sub-folder per class, shards, or an annotation list, where the text is the name of
the class. Recall@1, @5, @10, median and mean rank are printed both ways and written to the report, beside what chance
gives. Several processes share the videos: `torchrun --nproc_per_node 2 -m transformers_ila evaluate-retrieval ...`.
Exit code: 0 all videos were read, 1 some could not be (the report says why; of several processes only the first says
so), 2 bad arguments, nothing to evaluate, or a model without a text tower.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.annotations import FORMATS, Annotations, read_annotations
from ..data.captions import is_caption_list, read_captions
from ..distributed import Rank, all_gather, all_succeed, process_group
from ..evaluation.inference import require_checkpoint
from ..evaluation.options import RetrievalOptions
from ..evaluation.report_files import check_folder_can_be_made, precision_of, write_report
from ..evaluation.retrieval import RECALLS, evaluate_retrieval
from ..markup import plain_line


EXAMPLES = (
    "ila evaluate-retrieval --model path/to/clip --videos path/to/videos --list captions.csv",
    "ila evaluate-retrieval --model my-ila --videos path/to/videos --output new/folder/retrieval.json",
)
CAPTIONS = "captions"  # the format of `read_captions`, beside those of `read_annotations`
DIRECTIONS = {"text_to_video": "text to video", "video_to_text": "video to text"}


@dataclass(frozen=True, kw_only=True)
class RetrievalArguments(ZeroShotArguments):
    """Hold what is evaluated, and where the report goes."""

    _argument_group_name = "videos, texts and report"

    videos: str = field(
        metadata={"help": "folder with one sub-folder per class, or shards; with a list what its paths start from"}
    )
    list: str | None = field(
        default=None, metadata={"help": "table or JSON lines of paths and captions, or an annotation list"}
    )
    format: str | None = field(
        default=None,
        metadata={"help": "of the list or folder; found out by default", "choices": (CAPTIONS, *FORMATS)},
    )
    read_split: str | None = field(
        default=None, metadata={"help": "the split to read, where the list or folder holds several"}
    )
    output: str = field(default="retrieval.json", metadata={"help": "report to write, .json; its folder is made"})
