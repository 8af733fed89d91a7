"""The page: what stands where, and what is asked when a user presses a button.

What is unusual here:
- Each tab has two doors to the same method: a button of the page, whose errors become the line that screen readers
  read, and an endpoint of the API, whose errors are errors for its caller. Nothing else is callable from outside.
- Seeking needs no server: buttons and the picture of the timeline move the player by page.js.
- Nothing of a user lies in this module or in the objects of the page but under the user's session, and that goes with
  the session (`Inputs`).
"""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..markup import plain_line
from ..model.video_container_ila import VideoDecodingError
from ..search.search import Hit, VideoIndex
from . import answers, rendering
from .answers import LONGEST_WORD, MOST_WORDS, PICTURES, Stopped
from .limits import AppError, Deadline
from .models import ModelCache
from .options import AppOptions
from .theme import look_of_page
from .uploads import Inputs, Video


try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The page needs Gradio: pip install 'transformers-ila[app]'.") from error


logger = logging.get_logger(__name__)

HERE = Path(__file__).parent
FIRST_PICTURE = next(iter(PICTURES))
TITLE = "What happens in this video?"
NO_MODEL = (
    "There is no model yet. Name a Hub id (user/name) here; or start the page with a model, `ila app FOLDER`; or run "
    "`ila demo` in the folder from which the page is started, and start it again."
)
NO_INDEX = (
    "This page has no index to search. Make one with `ila index VIDEOS --model MODEL --output INDEX`, and start the "
    "page with --index INDEX."
)
PROGRESS = gr.Progress()  # as a default of a parameter it stands for that of the question
KEPT_RESULTS = 4  # of a kind, for a session: who asks a program may still be fetching one
STOPPED = "its user stopped it"


def build_page(options: AppOptions, model_cache: ModelCache, inputs: Inputs) -> "gr.Blocks":
    """Build the page.

    Args:
        options: what it offers.
        model_cache: of its models.
        inputs: where videos of users come from, and results go.

    Returns:
        Gradio's Blocks; its `look` is what `launch` takes of it, and `stop_all` ends all long jobs where they are.
    """
    owner = Page(options, model_cache, inputs)
    page = owner.build()
    page.look, page.stop_all = look_of_page(), owner.stop_all
    return page


class Page:
    """Answer the questions of the page's users.

    Args:
        options, model_cache, inputs: as of `build_page`.
    """

    def __init__(self, options: AppOptions, model_cache: ModelCache, inputs: Inputs) -> None:
        self.options, self.inputs, self.model_cache = options, inputs, model_cache
        self.index = None if options.index is None else VideoIndex(options.index)
        self._stops: dict[str, threading.Event] = {}  # of sessions with a long job

    # -- questions, asked by both doors ------------------------------------------------------------------------------

    def label(self, session: str, video: str | None, path: str, model: str, words: str) -> answers.LabelAnswer:
        """Answer the tab "Label"."""
        with self._asked(session, video, path, model) as (opened, checked):
            return answers.label(opened, checked, answers.read_words(words or ""))

    def look(
        self,
        session: str,
        video: str | None,
        path: str,
        model: str,
        picture: str,
        layer: float | None,
        progress: Callable[..., object],
    ) -> answers.LookAnswer:
        """Answer the tab "Where it looked"."""
        with self._asked(session, video, path, model) as (opened, checked), self._watched(session, progress) as watch:
            file = self._new(session, "overlay").with_suffix(".mp4")
            layer = answers.LAST if layer is None else int(layer)
            return answers.look(opened, checked, file, picture=picture, layer=layer, progress=watch)

    def timeline(
        self,
        session: str,
        video: str | None,
        path: str,
        model: str,
        words: str,
        rate: float | None,
        progress: Callable[..., object],
    ) -> tuple[answers.TimelineAnswer, list[Path]]:
        """Answer the tab "Timeline", and write its files."""
        with self._asked(session, video, path, model) as (opened, checked), self._watched(session, progress) as watch:
            found = answers.read_words(words or "")
            answer = answers.timeline(opened, checked, found, rate=rate or None, progress=watch)
        folder = self._new(session, "timeline")
        folder.mkdir(mode=0o700)
        return answer, answer.write(folder)

    def search(
        self, session: str, query: str, video: str | None, path: str, top_k: float, by_video: bool
    ) -> answers.SearchAnswer:
        """Answer the tab "Search"."""
        if self.index is None:
            raise AppError(NO_INDEX)
        model = self.index.model
        if model is None:
            raise AppError("The index does not say which model made it: run `ila index` on it again.")
        if not by_video:
            with self.model_cache.open(model) as opened:
                return answers.search(self.index, opened, query, top_k=int(top_k))
        with self._asked(session, video, path, model) as (opened, checked):
            return answers.search(self.index, opened, checked, top_k=int(top_k))

    @contextmanager
    def _asked(self, session: str, video: str | None, path: str, model: str) -> Iterator[tuple[Any, Video]]:
        """Yield the model and the checked video; while they are in use nobody deletes them."""
        model = str(model or "")  # of a list of choices whoever asks by a program may send anything
        if not model.strip() and not self.model_cache.choices:
            raise AppError(NO_MODEL)
        with (
            self.inputs.open(session, upload=video or None, path=path or None) as checked,
            self.model_cache.open(model) as opened,
        ):
            yield opened, checked

    def _new(self, session: str, kind: str, size: int = 0) -> Path:
        """Return a path that nobody guesses for a result of a session; of this kind its older results are deleted.

        size: bytes that it will have, as far as known. A Busy says that there is no room.
        """
        folder = self.inputs.folder(session)
        older = sorted(folder.glob(f"{kind}_*"))  # by the time in their names
        for path in older[: max(0, len(older) - KEPT_RESULTS + 1)]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        self.inputs.check_room(size)
        return folder / f"{kind}_{time.time_ns():020}_{secrets.token_hex(16)}"

    @contextmanager
    def _watched(self, session: str, progress: Callable[..., object]) -> Iterator[answers.Progress]:
        """Yield the progress of a long job, which ends when its user says so or leaves, or when its time is over."""
        stop, deadline = threading.Event(), Deadline(self.options.job_seconds)

        def watch(done: float, duration: float | None) -> None:
            if stop.is_set():
                raise Stopped(STOPPED)
            if not deadline.left:
                raise Stopped(f"an answer may take {self.options.job_seconds:g} seconds here")
            progress(min(1.0, done / duration) if duration else 0.0, desc=f"{done:.0f} s of the video are done")

        self._stops[session] = stop
        try:
            progress(0.0, desc="The video is opened")
            yield watch
        finally:
            if self._stops.get(session) is stop:
                del self._stops[session]

    def stop(self, session: str) -> bool:
        """Let the long job of a session end where it is; return whether there is one."""
        stop = self._stops.get(session)
        if stop is not None:
            stop.set()
        return stop is not None

    def stop_all(self) -> None:
        """Let the long jobs of all sessions end where they are, as the server does."""
        for stop in list(self._stops.values()):
            stop.set()

    # -- the page ----------------------------------------------------------------------------------------------------

    def build(self) -> "gr.Blocks":
        """Lay out the page, and connect it."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
            gr.HTML(
                f"<h1>{TITLE}</h1><p>Ask a video recogniser for its label, where it looked, and when things happen. "
                "Videos stay on this server and are deleted afterwards.</p>",
                elem_id="ila-head",
            )
            with gr.Row(elem_classes="ila-columns"):
                with gr.Column(scale=2, min_width=300, elem_classes="ila-column"):
                    self._questions()
                with gr.Column(scale=3, min_width=300, elem_classes="ila-column"):
                    self.status = gr.HTML(elem_id="ila-status", padding=False)
                    with gr.Tabs(elem_id="ila-tabs"):
                        self._label_tab()
                        self._look_tab()
                        self._timeline_tab()
                        self._search_tab()
            self._connect(page)
            self._connect_api()
        return page

    def _questions(self) -> None:
        options, choices = self.options, self.model_cache.choices
        gr.HTML("<h2>Video</h2>", padding=False)
        self.video = gr.Video(
            label="Send or record a video",
            sources=["upload", "webcam"],
            include_audio=True,  # of uploads, which stay as they are; without it FFmpeg's program is needed
            webcam_options=gr.WebcamOptions(mirror=False),  # left stays left
            elem_id="ila-video",
        )
        names = [(Path(example).name, number) for number, example in enumerate(options.chosen_examples)]
        self.example = gr.Dropdown(
            names, value=None, label="Or choose an example", visible=bool(names), elem_id="ila-example"
        )
        allowed = [f"in {Path(folder).name}/" for folder in options.folders] + ["https://..."] * options.urls
        self.path = gr.Textbox(
            value="",
            label="Or name a video on the server",
            info=f"Its path, {', '.join(allowed)}" if allowed else None,
            visible=bool(allowed),
            max_lines=1,
            elem_id="ila-path",
        )
        gr.HTML("<h2>Model</h2>", padding=False)
        self.model = gr.Dropdown(
            choices,
            value=choices[0] if choices else None,
            label="Folder on the server" if options.fixed_models else "Folder on the server, or Hub id (user/name)",
            allow_custom_value=not options.fixed_models,
            elem_id="ila-model",
        )
        self.facts = gr.HTML(rendering.status(NO_MODEL) if not choices else "", elem_id="ila-facts", padding=False)
        self.words = gr.Textbox(
            value="",
            label="Words of your own",
            info="To choose among, with commas between them. Empty: the model's own labels.",
            placeholder="waving, jumping, somebody falls",
            lines=2,
            max_length=MOST_WORDS * LONGEST_WORD,
            elem_id="ila-words",
        )

    def _label_tab(self) -> None:
        with gr.Tab("Label", id="label", elem_id="ila-label-tab"):
            gr.HTML("<h2>Which label fits</h2>", padding=False)
            self.ask_label = gr.Button(
                "Label the video", variant="primary", elem_id="ila-label-button", elem_classes="ila-ask"
            )
            self.labels = gr.HTML(elem_id="ila-labels", padding=False)

    def _look_tab(self) -> None:
        with gr.Tab("Where it looked", id="look", elem_id="ila-look-tab"):
            gr.HTML("<h2>Where the model looked</h2>", padding=False)
            self.picture = gr.Radio(
                [(title, key) for key, title in PICTURES.items()],
                value=FIRST_PICTURE,
                label="Picture",
                elem_id="ila-picture",
            )
            self.layer = gr.Slider(0, 11, value=0, step=1, label="Layer, from the first one on", elem_id="ila-layer")
            with gr.Row():
                self.ask_look = gr.Button(
                    "Show where it looked", variant="primary", elem_id="ila-look-button", elem_classes="ila-ask"
                )
                self.stop_look = gr.Button("Stop", elem_id="ila-look-stop-button")
            self.overlay = gr.Video(label="What the model saw", interactive=False, elem_id="ila-overlay")
            self.look_notes = gr.HTML(elem_id="ila-look-notes", padding=False)

    def _timeline_tab(self) -> None:
        with gr.Tab("Timeline", id="timeline", elem_id="ila-timeline-tab"):
            gr.HTML("<h2>When things happen</h2>", padding=False)
            self.rate = gr.Number(
                value=0,
                label="Frames a second that the model sees",
                info="0: as the model was trained.",
                elem_id="ila-rate",
            )
            with gr.Row():
                self.ask_timeline = gr.Button(
                    "Make the timeline", variant="primary", elem_id="ila-timeline-button", elem_classes="ila-ask"
                )
                self.ask_stop = gr.Button("Stop, and show what is there", elem_id="ila-stop-button")
            self.times = gr.HTML(elem_id="ila-timeline", padding=False)
            self.files = gr.File(
                label="The timeline as files",
                interactive=False,
                file_count="multiple",
                elem_id="ila-files",
                visible=False,
            )

    def _search_tab(self) -> None:
        with gr.Tab("Search", id="search", elem_id="ila-search-tab"):
            gr.HTML("<h2>Find videos</h2>", padding=False)
            there, said = self.index is not None, rendering.text(NO_INDEX)
            if self.index is not None:
                maker = rendering.name(self.index.model or "a model")
                said = f"An index of {len(self.index)} rows, made by {maker}."
            gr.HTML(f"<p>{said}</p>", elem_id="ila-index", padding=False)
            self.query = gr.Textbox(
                value="", label="What you look for", placeholder="somebody falls", max_lines=1, visible=there,
                max_length=LONGEST_WORD, elem_id="ila-query",
            )  # fmt: skip
            self.top_k = gr.Slider(1, 20, value=5, step=1, label="Videos, at most", visible=there, elem_id="ila-top-k")
            with gr.Row(visible=there):
                self.ask_search = gr.Button(
                    "Search by the words", variant="primary", elem_id="ila-search-button", elem_classes="ila-ask"
                )
                self.ask_like = gr.Button("Search by the video", elem_id="ila-like-button", elem_classes="ila-ask")
            self.found = gr.Video(label="What was found", interactive=False, elem_id="ila-found", visible=False)
            self.hits = gr.HTML(
                elem_id="ila-hits", padding=False, visible=there, js_on_load=(HERE / "page_hits.js").read_text("utf-8")
            )
            self.known_hits = gr.State([])

    # -- doors of the page -------------------------------------------------------------------------------------------

    def _connect(self, page: "gr.Blocks") -> None:
        given = [self.video, self.path, self.model]
        answering: dict[str, Any] = {"concurrency_id": "answers", "concurrency_limit": self.options.jobs}
        private: dict[str, Any] = {"api_visibility": "private"}
        helper: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        page.load(None, js=(HERE / "page.js").read_text("utf-8"), api_visibility="private")
        fitted = [self.facts, self.words, self.picture, self.layer]
        gr.on([page.load, self.model.change], self._describe, [self.model], fitted, **helper)
        self.example.input(self._show_example, [self.example], [self.status, self.video], **helper)
        self.path.submit(self._show_path, [self.path], [self.status, self.video, self.path], **helper)
        self.ask_label.click(
            self._label,
            [*given, self.words],
            [self.status, self.labels],
            show_progress_on=[self.labels],
            **private,
            **answering,
        )
        look: dict[str, Any] = {
            "fn": self._look,
            "inputs": [*given, self.picture, self.layer],
            "outputs": [self.status, self.overlay, self.look_notes],
            "show_progress_on": [self.overlay],
            **private,
            **answering,
        }
        self.ask_look.click(**look)
        self.layer.release(**look)
        self.picture.input(**look)
        self.ask_timeline.click(
            self._timeline,
            [*given, self.words, self.rate],
            [self.status, self.times, self.files],
            show_progress_on=[self.times],
            **private,
            **answering,
        )
        gr.on([self.ask_stop.click, self.stop_look.click], self._stop, None, [self.status], queue=False, **helper)
        asked = [self.query, self.video, self.path, self.top_k]
        shown = [self.status, self.hits, self.known_hits, self.found]
        searching = {"inputs": asked, "outputs": shown, "show_progress_on": [self.hits], **private, **answering}
        gr.on([self.ask_search.click, self.query.submit], self._search_words, **searching)
        self.ask_like.click(self._search_video, **searching)
        self.hits.select(self._show_hit, [self.known_hits], [self.status, self.found], **helper)
        page.unload(self._leave)

    def _describe(self, model: str) -> tuple[Any, Any, Any, Any]:
        """Say what a model is, and fit the inputs to it."""
        if not (model or "").strip():
            return rendering.status(NO_MODEL), gr.skip(), gr.skip(), gr.skip()
        try:
            found = answers.describe(
                self.model_cache.open(model)
            )  # not in `with`, which waits until others have their answers
        except Exception as error:
            return rendering.status(words_of(error), is_error=True), gr.skip(), gr.skip(), gr.skip()
        own = " Empty: the model's own labels." if found.classes else ""
        words = gr.update(interactive=True, info=f"To choose among, with commas between them.{own}")
        if found.lacks_for_words:
            info = f"This model reads no words: it has {found.lacks_for_words}."
            words = gr.update(interactive=False, info=info, value="")
        pictures = [key for key in PICTURES if key == "features" or found.aligning]
        last = found.aligning[-1] if found.aligning else found.layers - 1
        return (
            rendering.facts(found),
            words,
            gr.update(choices=[(PICTURES[key], key) for key in pictures], value=pictures[0]),
            gr.update(maximum=max(found.layers - 1, 1), value=last),
        )

    def _show_example(self, number: int | None, request: gr.Request) -> tuple[Any, Any]:
        if number is None or not 0 <= number < len(self.options.chosen_examples):
            return gr.skip(), gr.skip()
        example = Path(self.options.chosen_examples[number])
        try:
            return "", self._copied(example, session_of(request))
        except Exception as error:
            return rendering.status(words_of(error), is_error=True), gr.skip()

    def _show_path(self, path: str, request: gr.Request) -> tuple[Any, Any, Any]:
        """Put a video of the server into the player."""
        if not path.strip():
            return "", gr.skip(), gr.skip()
        try:
            with self.inputs.open(session_of(request), path=path) as checked:
                return (
                    rendering.status(f"{checked.name} is here."),
                    self._copied(checked.path, session_of(request), checked.name),
                    "",
                )
        except Exception as error:
            return rendering.status(words_of(error), is_error=True), gr.skip(), gr.skip()

    def _copied(self, file: Path, session: str, name: str = "") -> str:
        """Return a copy of a file in the folder of a session, from where the player has it."""
        folder = self._new(session, "video", file.stat().st_size)
        folder.mkdir(mode=0o700)
        return str(shutil.copyfile(file, folder / Path(name or file.name).name))

    def _label(self, video: str | None, path: str, model: str, words: str, request: gr.Request) -> tuple[Any, Any]:
        try:
            answer = self.label(session_of(request), video, path, model, words)
        except Exception as error:
            return rendering.status(words_of(error), is_error=True), ""
        return rendering.status(answer.about), rendering.label(answer)

    def _look(
        self, video: str | None, path: str, model: str, picture: str, layer: float,
        request: gr.Request, progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        try:
            answer = self.look(session_of(request), video, path, model, picture, layer, progress)
        except Exception as error:
            return rendering.status(words_of(error), is_error=True), None, ""
        return rendering.status(answer.about), str(answer.file), rendering.notes(answer.notes)

    def _timeline(
        self, video: str | None, path: str, model: str, words: str, rate: float | None,
        request: gr.Request, progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        try:
            answer, files = self.timeline(session_of(request), video, path, model, words, rate, progress)
        except Exception as error:
            return rendering.status(words_of(error), is_error=True), "", gr.update(value=None, visible=False)
        files_shown = gr.update(value=[str(file) for file in files], visible=True)
        return rendering.status(answer.about), rendering.timeline(answer), files_shown

    def _stop(self, request: gr.Request) -> str:
        stopping = self.stop(session_of(request))
        return rendering.status("It stops." if stopping else "There is nothing to stop.")

    def _search_words(self, query: str, video: Any, path: str, top_k: float, request: gr.Request) -> tuple:
        return self._search(session_of(request), query, video, path, top_k, by_video=False)

    def _search_video(self, query: str, video: Any, path: str, top_k: float, request: gr.Request) -> tuple:
        return self._search(session_of(request), query, video, path, top_k, by_video=True)

    def _search(
        self, session: str, query: str, video: str | None, path: str, top_k: float, *, by_video: bool
    ) -> tuple[Any, Any, Any, Any]:
        hidden = gr.update(value=None, visible=False)
        try:
            answer = self.search(session, query, video, path, top_k, by_video)
            pictures = [answers.thumbnail(hit, self.options.read_limits()) for hit in answer.hits]
        except Exception as error:
            return rendering.status(words_of(error), is_error=True), "", [], hidden
        return rendering.status(answer.about), rendering.hits(answer, pictures), answer.hits, hidden

    def _show_hit(self, hits: list[Hit], request: gr.Request, chosen: gr.EventData) -> tuple[Any, Any]:
        """Play what was found; the number comes from the page, the videos from this user's last search."""
        number = getattr(chosen, "hit", None)
        if not isinstance(number, int) or not 0 <= number < len(hits):
            return rendering.status("Search again: what was found is no longer known.", is_error=True), gr.skip()
        hit = hits[number]
        file = self._new(session_of(request), "found").with_suffix(".mp4")
        try:
            start, end = answers.preview(hit, file, self.options.read_limits())
        except Exception as error:
            return rendering.status(words_of(error), is_error=True), gr.update(value=None, visible=False)
        said = f"{plain_line(hit.video, 80)}, {rendering.clock(start)} to {rendering.clock(end)}, is in the player."
        return rendering.status(said), gr.update(value=str(file), visible=True)

    def _leave(self, request: gr.Request) -> None:
        """End what a user who leaves has asked for; the server forgets the rest (`launch`)."""
        self.stop(session_of(request))

    # -- doors of the API --------------------------------------------------------------------------------------------

    def _connect_api(self) -> None:
        """Give each tab an endpoint; parameters are those of the functions, answers are JSON and files."""
        answering: dict[str, Any] = {"concurrency_id": "answers", "concurrency_limit": self.options.jobs}
        default = self.model_cache.choices[0] if self.model_cache.choices else ""

        def label(  # type: ignore[no-untyped-def]
            video=None, path="", model=default, words="", request: gr.Request = None
        ):
            return self.label(session_of(request), video, path, model, words).as_json()

        def look(  # type: ignore[no-untyped-def]
            video=None, path="", model=default, picture=FIRST_PICTURE, layer=-1, request: gr.Request = None
        ):
            answer = self.look(session_of(request), video, path, model, picture, layer, silent)
            return answer.as_json(), str(answer.file)

        def timeline(  # type: ignore[no-untyped-def]
            video=None, path="", model=default, words="", rate=0, request: gr.Request = None
        ):
            answer, files = self.timeline(session_of(request), video, path, model, words, rate, silent)
            return answer.as_json(), [str(file) for file in files]

        def search(  # type: ignore[no-untyped-def]
            query="", video=None, path="", top_k=5, request: gr.Request = None
        ):
            by_video = bool(video or (path or "").strip())
            query = query or ""
            if by_video and query.strip():
                raise AppError("Give words or an example video, not both.")
            return self.search(session_of(request), query, video, path, top_k, by_video).as_json()

        given = [self.video, self.path, self.model]
        with gr.Column(visible=False):
            door, answer = gr.Button("API"), gr.JSON(label="Answer")
            video, files = gr.Video(label="Video"), gr.File(label="Files", file_count="multiple")
            layer = gr.Number(-1, label="Layer, from 0 on; -1: the last one with such a picture", precision=0)
        for_words, asked = [*given, self.words], [self.query, self.video, self.path, self.top_k]
        endpoints: list[tuple[Callable[..., Any], list[Any], list[Any], str]] = [
            (label, for_words, [answer], "Best labels of a video, the model's own or of your words."),
            (look, [*given, self.picture, layer], [answer, video], "The video with what a layer looked at."),
            (timeline, [*for_words, self.rate], [answer, files], "Segments of a long video, and files of them."),
            (search, asked, [answer], "Videos of the index near to words or to a video."),
        ]
        for function, inputs, outputs, what in endpoints:
            door.click(
                in_words(function), inputs, outputs, api_name=function.__name__, api_description=what, **answering
            )


def silent(*_: Any, **__: Any) -> None:
    """Show no progress: a caller of the API waits for the answer."""


def session_of(request: "gr.Request | None") -> str:
    """Return the session that a question belongs to; one without any gets one for this question."""
    return getattr(request, "session_hash", None) or secrets.token_hex(16)


def words_of(error: BaseException) -> str:
    """Return an error as a sentence for a user; what nobody has foreseen is logged, and says nothing of the server."""
    if isinstance(error, (AppError, VideoDecodingError, ValueError)):
        return str(error)
    if isinstance(error, Stopped):
        return f"Stopped: {error.reason}."
    if isinstance(error, MemoryError):
        return "The server has not enough memory for this. Try a shorter or smaller video."
    logger.error("A question to the page failed.", exc_info=error)
    return "Something went wrong on the server; its log says what. Try another video or model."


def in_words(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the errors of an endpoint reach its caller as sentences."""
    from functools import wraps

    @wraps(function)
    def door(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise gr.Error(words_of(error), print_exception=False) from error

    return door
