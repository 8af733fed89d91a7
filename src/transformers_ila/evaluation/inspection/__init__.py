"""What a model sees in a video: opening it, choosing frames, watching layers, and what the maps do not mean."""
