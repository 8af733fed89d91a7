"""The page's look: a theme whose colours all can read, without fonts from elsewhere, and the style sheet."""

from pathlib import Path
from typing import Any


STYLES = Path(__file__).with_name("page.css")
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")  # of the reader's machine
MONO = ("ui-monospace", "Consolas", "monospace")
# where the theme's own colours are too near to each other to be read by everybody
CONTRAST = {
    "block_label_background_fill": "*primary_100",
    "block_label_background_fill_dark": "*neutral_700",
    "block_label_text_color": "*neutral_800",
    "block_title_background_fill": "none",
    "block_title_background_fill_dark": "none",
    "block_title_text_color": "*neutral_800",
    "block_title_text_color_dark": "*neutral_100",
    "block_title_padding": "0",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_600",
    "checkbox_label_background_fill_selected": "*primary_700",
    "checkbox_label_background_fill_selected_dark": "*primary_700",
    "color_accent": "*primary_700",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
}


def look_of_page() -> dict[str, Any]:
    """Return what of the page's look `Blocks.launch` takes: a theme without foreign fonts, and the style sheet."""
    import gradio as gr  # here, as all other parts of the package do without

    theme = gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=[*SANS], font_mono=[*MONO]).set(**CONTRAST)
    return {"theme": theme, "css": STYLES.read_text("utf-8")}
