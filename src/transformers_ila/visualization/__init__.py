"""Tensors to pictures, and their files with the facts of their making; nothing is measured here."""

from ..moved import old_names
from .alignment import plot_alignment
from .attention import plot_query_attention
from .calibration import plot_calibration
from .classes import plot_classes
from .confusion import plot_confusion_matrix
from .files import read_about, write_figure, write_gif, write_video
from .matches import plot_matches, plot_routes
from .overlay import overlay
from .regions import plot_regions
from .sheets import Row, plot_frames
from .temporal import plot_frame_attention, plot_information, plot_temporal_weights
from .timeline import plot_timeline


__all__ = [
    "Row",
    "overlay",
    "plot_alignment",
    "plot_calibration",
    "plot_classes",
    "plot_confusion_matrix",
    "plot_frame_attention",
    "plot_frames",
    "plot_information",
    "plot_matches",
    "plot_query_attention",
    "plot_regions",
    "plot_routes",
    "plot_temporal_weights",
    "plot_timeline",
    "read_about",
    "write_figure",
    "write_gif",
    "write_video",
]

__getattr__ = old_names("visualization")
