"""Old names of modules, functions and classes: they still import, and warn of their new place.

All modules stood in one folder once. `from transformers_ila.cards import model_card` still works, and what was pickled
then still loads. Whoever moves or renames something public adds a row: where a module moves, to `SAME_NAMES` or
`HOMES` (old module -> new modules, searched in this order); where a name changes, to `RENAMED` (`old`, or `module.old`
-> new); where nothing stands in its place, to `GONE` (`module.old` -> what does instead).
`tests/test_deprecations.py` imports every one.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


PACKAGE = __name__.rpartition(".")[0]

SAME_NAMES = {  # room -> modules that moved there and kept their names
    "backbones": "frozen_clip timesformer",
    "conversion": "checkpoint_files",
    "data": "annotations",
    "evaluation": "metrics prediction probing",
    "model": "layers_ila modeling_ila temporal_ila video_container_ila video_decoding_ila video_packets_ila",
    "training": "augmentation",
}
TO_SEARCH = "index_files indexing mteb retrieval search video_places windows"  # from `evaluation`
HOMES = {
    **{module: f"{room}.{module}" for room, modules in SAME_NAMES.items() for module in modules.split()},
    "ablation": "ablation.ablation ablation.runs ablation.results",
    "ablation_report": "ablation.report",
    "alignment_ila": "model.alignment_ila model.pairs_ila model.numerics_ila",
    "analysis": "cost evaluation.frame_information",
    "annotation_data_sets": "data.data_sets",
    "annotation_lists": "data.lists",
    "annotation_samples": "data.samples",
    "annotation_shards": "data.shards",
    "annotation_text": "data.text",
    "cards": "hub.cards hub.facts hub.reports hub.earlier_cards conversion.released_cards",
    "checkpoints": "conversion.published data.class_names",
    "class_names_ila": "model.class_names_ila model.class_features_ila",
    "complexity": "cost",
    "configuration_ila": "model.configuration_ila model.class_names_ila model.validation_ila",
    "confusion_picture": "visualization.confusion",
    "conversion": "conversion.state_dicts",
    "data": "data.video_folder",
    "evaluate_metrics": "evaluation.hf_metrics",
    "evaluation": "evaluation.evaluator search.indexing search.retrieval search.search",
    **{f"evaluation.{module}": f"search.{module}" for module in TO_SEARCH.split()},
    "evaluation_files": "evaluation.report_files",
    "evaluation_report": "evaluation.report data.samples",
    "evaluation_samples": "data.samples evaluation.evaluator",
    "fast_path_ila": "",
    "hub": "hub.exporting",
    "inference": "evaluation.inference model.validation_ila",
    "mlp_ila": "model.layers_ila",
    "model.video_sampling_ila": "model.video_frames_ila",
    "motion_pictures": "motionbench.drawing video_writing",
    "motionbench": "motionbench.tasks",
    "moving_average": "training.callbacks",
    "outputs_ila": "model.pretrained_ila",
    "picture_tower": "ablation.image_pretraining",
    "positions_ila": "model.loading_ila model.layers_ila",
    "prediction_files": "evaluation.prediction_files evaluation.options",
    "pretrained_ila": "model.pretrained_ila model.numerics_ila",
    "processes": "distributed",
    "processing_ila": "model.processing_ila model.loading_ila",
    "publishing": "hub.publishing hub.checking",
    "recipes": "training.recipes training.inputs",
    "released_checkpoint": "conversion.convert conversion.tokenizer",
    "shipped_code_ila": "model.loading_ila",
    "sigterm": "training.signals",
    "synchronised_norm": "training.sync_batch_norm",
    "training": "training.trainer training.arguments",
    "training_callbacks": "training.callbacks",
    "training_data": "training.clips",
    "training_shards": "training.shard_clips",
    "unreadable_videos": "training.unreadable",
    "video_bitstream_ila": "model.video_packets_ila",
    "video_check": "data.checking distributed",
    "video_lists": "data.lists",
    "video_processing_ila": "model.video_processing_ila model.video_frames_ila",
    "video_reading_ila": "model.video_reading_ila model.video_urls_ila",
    "video_views": "evaluation.views evaluation.options",
    "visualization": "visualization.alignment",
    "vit_ila": "model.loading_ila",
    "whole_checkpoints": "training.checkpoints",
}

RENAMED = {
    "ABOVE_VIT": "ABOVE_TOWER",
    "AS_IS": "ORIGINAL",
    "Classes": "LabelMap",
    "DataEpoch": "SetEpochCallback",
    "EpochOrder": "EpochSampler",
    "HalvesProduct": "GroupedLinear",
    "IGNORED": "IGNORE_INDEX",
    "KeptFrames": "FrameCollector",
    "MADE_OF": "PROVENANCE",
    "NO_STAND_IN": "NO_REPLACEMENT",
    "NotAsListed": "IndexMismatch",
    "ORDERS": "FRAME_ORDERS",
    "OtherProcessError": "RemoteRankError",
    "OutlivingWorker": "IgnoreSigtermInWorker",
    "PUBLISHED_NOTE": "NOT_MEASURED",
    "PairPoints": "PointPredictor",
    "Parts": "ResultWriter",
    "Place": "Rank",
    "VIT_FIELDS": "TOWER_FIELDS",
    "VIT_TOWER": "FIXED_FIELDS",
    "VIT_WEIGHTS": "TOWER_WEIGHTS",
    "check_config_for_vit": "check_config_for_tower",
    "config_dict_of_vit": "config_dict_of_tower",
    "conversion.Place": "SourceSlice",
    "PlainFile": "SeekableFile",
    "QuickGelu": "QuickGELU",
    "RoleConvNorm": "ConvNorm",
    "RoleConvolution": "PairDepthwiseConv",
    "RoleProduct": "PairPointwiseConv",
    "Root": "VideoRoot",
    "SOURCE_ARGUMENTS": "HUB_KWARGS",
    "annotation_samples.Samples": "LabelledVideos",
    "evaluation_samples.Samples": "SampleCollector",
    "Start": "SharedInputs",
    "Tally": "DecodeStats",
    "Temporal": "TemporalOutput",
    "Thing": "Sprite",
    "UNSAID": "VARIANT_DEFAULTS",
    "Waiting": "TimedIterator",
    "agree_on": "require_same_checkpoint",
    "agree_on_settings": "check_settings",
    "align_memory": "realign_tensors",
    "alignment_in_train_mode": "batch_statistics_mode",
    "all_but_anchor": "all_but_reference",
    "alone": "in_turns",
    "anchor_frame": "reference_frame",
    "best_five": "top5_indices",
    "digest_of": "video_id",
    "draw_alignment": "plot_alignment",
    "draw_confusion": "plot_confusion_matrix",
    "evaluation.predict": "collect_logits",
    "fault_in": "annotation_error",
    "filled_lines": "nonblank_lines",
    "fused_logits": "multi_view_logits",
    "given_labels": "explicit_class_names",
    "is_new": "is_new_parameter",
    "is_vit": "image_tower",
    "known_fields": "validate_config_fields",
    "mark_complete": "write_manifest",
    "mean_over_roles": "average_pairs_to_frames",
    "multi_label_scores": "multi_label_metrics",
    "neighbour_scores": "knn_scores",
    "own_features": "average_pair_features",
    "own_role": "pairs_to_frames",
    "paint": "render",
    "state_dict_of_vit": "state_dict_of_tower",
    "video_bitstream_ila.picture_in": "parse_picture",
    "place_in_environment": "rank_from_environment",
    "place_in_group": "current_rank",
    "point_weights": "mask_profile",
    "pool_pairs": "masked_average_pool",
    "prediction_files.FORMATS": "RESULT_FORMATS",
    "reordered": "permute_frames",
    "report_of": "build_report",
    "role_features": "concat_pair_features",
    "save_picture_tower": "save_pretrained_tower",
    "several_label_scores": "multi_label_metrics",
    "shared_information": "mutual_information",
    "some_of": "preview",
    "together": "all_gather",
    "tower": "build_tower",
    "train_picture_tower": "pretrain_on_frames",
    "transport_distance": "earth_movers_distance",
    "what_is_missing": "verify_manifest",
    "written_whole": "atomic_folder",
}

GONE = {  # a blank stands between names that share a reason
    "ablation.own_classes": "`task_mask(tasks)` of `transformers_ila.ablation.runs` does, from the classes' tasks",
    "ablation.test": "`measure` of `transformers_ila.ablation.runs` does",
    "cards.PAPER_TABLE cards.PUBLISHED_ROW cards.USAGE_MODEL cards.RESULTS_OF cards.OWN_WEIGHTS cards.CLIP_WEIGHTS "
    "cards.published_results cards.released_weights cards.weights_of cards.claims_results cards.results_are_of "
    "cards.example_model cards.with_example_model": "what a card says is in its `ModelFacts` (transformers_ila.hub)",
    "cards.reliance_note cards.training_note cards.recorded_note cards.paper_cost_note": "`model_card` writes them",
    "confusion_picture.SIDE confusion_picture.CAPTION confusion_picture.GAP": "matplotlib lays the picture out",
    "evaluate_metrics.import_evaluate": "`import evaluate` does",
    "evaluation_files.write_files": "`write(evaluation, output)` of transformers_ila.evaluation.report_files does",
    "visualization.CELL": "`transformers_ila.visualization.sheets` measures figures in inches",
    "visualization.GAP": "`transformers_ila.visualization.sheets` measures figures in inches",
    "confusion_picture.DARK": "`SHARES` of `transformers_ila.visualization.confusion` names the scale of colours",
    "fast_path_ila.is_followed fast_path_ila.is_precise": "`fuse()` of a model asks for speed",
    "inference.class_names_of": "`model.config.class_names` says them",
    "inference.in_eval_mode": "`evaluating(model, options)` of `transformers_ila.evaluation.inference` does more",
    "mlp_ila.QUICK": "`QuickGELU.SCALE` of `transformers_ila.model.layers_ila` is that number",
    "mlp_ila.IlaMLP": "transformers' CLIPMLP stands in its place, and `fuse()` of a model makes it faster",
    "annotation_text.TAB_CELL annotation_text.COMMA_CELL": "`cells_of()` of `transformers_ila.data.text` cuts rows",
    "video_lists.HEADER": "`header_columns()` of `transformers_ila.data.lists` finds the columns of a header",
    "video_lists.LABELS_AT_END": "`begin_of_numbers()` of `transformers_ila.data.lists` finds them",
    "video_lists.ListedVideo": "`ListEntry` of `transformers_ila.data.lists` has its line as `raw`",
    "video_lists.list_videos": "`iter_entries()` of `transformers_ila.data.lists` gives all lines",
    "video_lists.stream_videos": "`iter_videos()` of `transformers_ila.data` gives names and paths",
    "modeling_ila.check_class_indices": "`check_targets` of `transformers_ila.model.targets_ila` checks all labels",
    "modeling_ila.tensor_state": "`refresh_class_features()` of the model is called where it was compared",
    "prediction.named_videos": "`transformers_ila.data.iter_videos` yields names and paths",
    "training.NEW_PARTS": "`new_parameters` of a model's class says it",
    "video_views.Views": "`EvaluationOptions` and its bases (`transformers_ila.evaluation`) say which views",
    "video_views.pixel_values_on": "`normalize_on` of the video processor does",
    "video_views.video_loader": "`read_views` of `transformers_ila.evaluation.views` reads batches",
}
GONE = {name: reason for names, reason in GONE.items() for name in names.split()}


def new_name(module: str, name: str) -> tuple[str, Any]:
    """Return the full name that an old module's name has now, and the object that it names.

    Raises:
        ImportError: there is nothing in its place; it says what to use instead.
        AttributeError: the old module had no such name.
    """
    key = f"{module}.{name}"
    if key in GONE:
        raise ImportError(f"`{PACKAGE}.{key}` is gone: {GONE[key]}.")  # an AttributeError would lose its words
    renamed = RENAMED.get(key, RENAMED.get(name, name))
    is_file = (Path(__file__).parent / module / f"{name}.py").exists()  # a room's own, which Python imports next
    for home in () if is_file or name.startswith("__") else HOMES[module].split():
        new = importlib.import_module(f"{PACKAGE}.{home}")
        for candidate in dict.fromkeys((renamed, name)):
            if candidate in vars(new):
                return f"{PACKAGE}.{home}.{candidate}", vars(new)[candidate]
    raise AttributeError(f"module {PACKAGE + '.' + module!r} has no attribute {name!r}")


def old_names(module: str, late: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Make the `__getattr__` of an old module: it finds what moved, and warns.

    late: names that are public in `module` today, and which of its files is imported when they are asked for.
    """

    def find(name: str) -> Any:
        if late and name in late:
            return getattr(importlib.import_module(f"{PACKAGE}.{module}.{late[name]}"), name)
        place, found = new_name(module, name)
        warnings.warn(
            f"`{PACKAGE}.{module}.{name}` is now `{place}`; the old name will go.",
            DeprecationWarning,
            stacklevel=2,
        )
        return found

    return find


class OldModules(MetaPathFinder, Loader):
    """Make modules that are no files any more when they are imported; Python asks the other finders first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = fullname.removeprefix(f"{PACKAGE}.")
        return ModuleSpec(fullname, self) if module != fullname and module in HOMES else None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = old_names(module.__name__.removeprefix(f"{PACKAGE}."))  # type: ignore[method-assign]


old_modules = OldModules()
