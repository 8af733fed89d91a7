"""Folders that tests look into."""

from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
RECIPES = ROOT / "src" / "transformers_ila" / "training" / "recipes"
SHARED = ROOT / ".." / "shared"  # reference material, which only some machines have
