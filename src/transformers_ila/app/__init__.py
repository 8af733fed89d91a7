"""A page on which anybody can ask a model about a video, by Gradio."""

from .launch import launch
from .options import AppOptions


__all__ = ["AppOptions", "launch"]
