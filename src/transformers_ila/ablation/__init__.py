"""Variants and seeds on one budget, and the report about them."""
