"""Features of videos in an index, what is found in it by words and by examples, and how well."""

from .indexing import index_videos
from .retrieval import evaluate_retrieval
from .search import VideoIndex, search_texts


__all__ = ["VideoIndex", "evaluate_retrieval", "index_videos", "search_texts"]
