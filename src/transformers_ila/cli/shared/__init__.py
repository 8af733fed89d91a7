"""What several verbs share: how options are read, words, videos, and the end by a signal."""
