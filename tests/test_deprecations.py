"""Names of the modules as they stood in one folder: each still imports, or says what to do instead."""

import importlib
import pickle
import pkgutil
import subprocess
import sys
import warnings

import pytest

import transformers_ila
from transformers_ila.moved import GONE, HOMES, RENAMED, new_name
from transformers_ila.training import IlaTrainingArguments


# Every public function, class and constant that the modules had, when all of them stood in one folder.
OLD_NAMES = {
    "ablation": (
        "OTHER_TASKS KEPT_BYTES MEASURED MADE_OF UNSAID RunInProgress Ablation read_ablation result_file "
        "read_results refuse_other tower_digest write_json alone Start prepare start_model own_classes TaskTrainer "
        "run test mean_accuracy config_for_cost own_gmacs"
    ),
    "ablation_report": "COSTS measure_costs summary_rows write_report markdown draw_costs draw_tasks",
    "alignment_ila": (
        "POINT_RANGE at_least_float32 point_weights patch_positions alignment_masks AlignmentBatchNorm ConvNorm "
        "HalvesProduct PointLayer PointHead RoleConvolution RoleProduct SeparableConvolution RoleConvNorm "
        "PairInteraction interaction_module WindowAttention anchor_frame pair_frames all_but_anchor own_role "
        "mean_over_roles own_features role_features pool_pairs alignment_loss PairPoints ImplicitAlignment "
        "ResidualAlignment"
    ),
    "analysis": (
        "TEMPERATURE transport_distance shared_information last_patches Growth module_gmacs growth "
        "matching_exponents fitted_exponent Cost cost median_times times_in_turns kept_for_backward"
    ),
    "annotation_data_sets": (
        "CELL VIDEO_ID SECONDS KINETICS_COLUMNS TIMED BARE read_kinetics SSV2_LABELS SSV2_NAMES read_ssv2 "
        "files_of_splits NO_VIDEOS read_class_folders"
    ),
    "annotation_lists": "SEPARATOR NUMBER QUOTED TO_SUFFIX read_list read_frame_list begin_of_numbers",
    "annotation_samples": "Labels SPLITS ShardMember DatasetRow Sample Annotations Root Classes classes_of Samples",
    "annotation_shards": (
        "SHARD_SUFFIXES RANGE LABEL_KEYS LABEL_BYTES list_shards read_shards stream_shard labels_of_value "
        "names_shards read_dataset"
    ),
    "annotation_text": (
        "LONGEST_LINE UTF16 BETWEEN TOKEN TAB_CELL COMMA_CELL AnnotationError Text Line fault_in read_text decoded "
        "with_plain_ends filled_lines place_of unquoted is_index parse_json some_of"
    ),
    "annotations": "read_annotations JSON FORMATS",
    "augmentation": (
        "clip_seed clip_generator MIRRORED_WORDS CORNERS QUARTERS CROP_POSITIONS names_left_or_right "
        "ClipAugmentation turn_hue RAND_AUGMENT MixClips MixingCollator Rules PROBABILITY STRENGTH NUMBERS "
        "MIXING_NUMBERS"
    ),
    "cards": (
        "TEMPLATE RELEASE OFFICIAL_RELEASE NO_LICENCE PAPER_TABLE PUBLISHED_ROW USAGE_MODEL PAPER CITATION Result "
        "METRICS published_results measured_results reliance_note ORDER_WORDS Weights OWN_WEIGHTS CLIP_WEIGHTS "
        "BATCH_STATISTICS NO_BATCH_STATISTICS UNUSED_OUTPUTS released_weights model_card USAGE_NOTE LIMITS "
        "published_card training_note PUBLISHED_NOTE recorded_note RECORDED paper_cost_note card_of_folder "
        "claims_results results_are_of weights_of example_model with_example_model RESULTS_OF"
    ),
    "checkpoint_files": (
        "REFUSED EXPECTED STATE_DICT_KEYS TYPED_STORAGE CheckpointFile read_checkpoint is_torchscript read_torchscript"
    ),
    "checkpoints": (
        "RELEASED_PREPROCESSING DataSet DATA_SETS PublishedCheckpoint PUBLISHED PUBLISHED_VIEWS HEADER_WORDS "
        "RELEASED_OUTPUTS UNUSED published_like class_names fill_up is_unused released_processor"
    ),
    "class_names_ila": "check_labels given_labels load_tokenizer tokenize_labels placeholder_class_input_ids",
    "complexity": "Complexity count count_gmacs",
    "configuration_ila": "CLIP_SIZES ALWAYS_SAVED IlaTextConfig IlaVisionConfig IlaConfig",
    "confusion_picture": "SIDE NAMED LARGEST DARK EMPTY GAP CAPTION draw_confusion",
    "conversion": (
        "StateDict END_OF_TEXT_BY_ARGMAX NOT_IN_CLIP NOT_WEIGHTS ATTENTION_LAYER ALIGNMENT INTERACTION VISION TEXT "
        "PROMPT PROMPT_LAYER FRAMES LINEAR_HEAD TRANSPOSED STACKS FUSED Place rename_table convert_state_dict "
        "to_released_state_dict"
    ),
    "data": "Sample VideoFolder find_videos hold_out",
    "evaluate_metrics": (
        "import_evaluate evaluate Metric CITATION SCORES TopKAccuracy MeanClassAccuracy MeanAveragePrecision "
        "METRICS load"
    ),
    "evaluation": "predict evaluate index_videos evaluate_retrieval VideoIndex search_texts",
    "evaluation.index_files": "Span WHOLE IndexWriter local_folder open_parts",
    "evaluation.indexing": "index_videos load_for_index",
    "evaluation.mteb": "",  # whose names need mteb
    "evaluation.retrieval": "evaluate_retrieval",
    "evaluation.search": "VideoIndex search_texts",
    "evaluation.video_places": "Moves are_there",
    "evaluation.windows": "SomeWindows read_windows",
    "evaluation_files": "SHOWN TITLES files_of write_files write_report markdown percent scores_of seconds_of",
    "evaluation_report": (
        "REPORT_SCHEMA BATCH_STATISTICS_NOTE MOST_CONFUSED Predictions report_of describe_software "
        "describe_samples samples_hash most_confused fingerprint describe_model describe_preprocessing"
    ),
    "evaluation_samples": "Samples listed_samples path_of named_source check_samples labels_of",
    "fast_path_ila": "is_followed is_precise",
    "frozen_clip": (
        "DECODER_TEMPORAL FrozenClipConfig TimeConvolution NeighbourAttention FrozenClipDecoderLayer "
        "queries_and_keys FrozenClipDecoder FrozenClipForVideoClassification"
    ),
    "hub": (
        "MODEL_CODE VIDEO_PROCESSOR_CODE PROCESSOR_CODE CODE_OF_FILE CARD_BEFORE MERGE MAX_SHARD_SIZE OWN_FILES "
        "export written_whole"
    ),
    "inference": (
        "MULTI_LABEL load_trained alignment_in_train_mode in_eval_mode fused_logits check_logits "
        "features_and_logits probabilities class_names_of"
    ),
    "layers_ila": "temporal_module IlaEncoderLayer IlaVisionEncoder",
    "metrics": (
        "CALIBRATION_BINS accuracies top_k_accuracy mean_class_accuracy label_ranks predicted_classes "
        "confusion_matrix multi_label_scores mean_average_precision average_precisions calibration"
    ),
    "mlp_ila": "QUICK QuickGelu IlaMLP",
    "model.video_sampling_ila": "segment_indices uniform_indices dense_indices INDEX_RULES",
    "modeling_ila": (
        "UPLOAD_ARGUMENTS IlaVisionEmbeddings IlaVisionModel check_pixel_values frame_integration prompt_generator "
        "tower IlaModel IlaForVideoClassification check_class_indices tensor_state"
    ),
    "motion_pictures": "SIZE_RANGE TIME_BASE MotionVideo Thing paint SHAPES box_coverage write_mp4",
    "motionbench": (
        "SPLITS HUES WAVES SIZES FRAMES FPS Scene WAYS SPEED PAN_SPEED TURN_SPEED Task TASKS bench_labels "
        "bench_video bench_videos write_bench MOTIONS PLAIN_SPEED make_video make_videos write_folder"
    ),
    "moving_average": "FILE MovingAverage",
    "outputs_ila": "IlaVisionModelOutput IlaOutput IlaVideoClassifierOutput",
    "picture_tower": "SEEN STATES TARGETS pictures_and_states train_picture_tower save_picture_tower",
    "positions_ila": (
        "TIME_PARAMETERS vision_sizes set_vision_sizes stored_sizes resize_frame_positions resize_time_parameters "
        "resize_patch_positions"
    ),
    "prediction": "NOT_FINITE Summary named_videos label_videos",
    "prediction_files": (
        "FORMATS ROWS_OF_A_PIECE SECONDS_OF_A_PIECE SETTINGS digest_of agree_on_settings Parts part_files "
        "read_results done_videos"
    ),
    "pretrained_ila": "FILE_ARGUMENTS MEMORY_ALIGNMENT Projection IlaPreTrainedModel align_memory",
    "probing": (
        "NEIGHBOURS TEMPERATURE WEIGHT_DECAYS DEFAULT_WEIGHT_DECAY HELD_OUT QUERIES Features extract_features "
        "neighbour_scores choose_neighbours LinearProbe fit_linear choose_weight_decay probe probe_report"
    ),
    "processes": "PATIENCE Place OtherProcessError place_in_environment place_in_group process_group together",
    "processing_ila": "SOURCE_ARGUMENTS TOKENIZER_FILES IlaProcessorKwargs IlaProcessor",
    "publishing": (
        "LEFT_OUT REQUIRED PROCESSORS MAIN NO_ANSWER WEIGHTS INDEX RELATIVE_IMPORT UNFILLED TRY_OUT PublishError "
        "CheckedFolder check_folder publish published_card_text"
    ),
    "recipes": (
        "RESOLVED MAY_CHANGE ALWAYS_WRITTEN NEVER_WRITTEN MAY_CHANGE_PREFIX STREAM_FIXES RecipeArguments config_of "
        "model_of known_fields annotations_of read_recipe check_keys parse resolved_values write_resolved "
        "check_same_run"
    ),
    "released_checkpoint": (
        "CLIP_TOKENIZER TOKENIZER_PARTS MERGES_FILES BYTE_TOKENS SPECIAL_TOKENS Conversion convert_checkpoint "
        "default_labels read_tokenizer"
    ),
    "shipped_code_ila": "save_code code_files",
    "sigterm": "SAME_ORDER OutlivingWorker with_outliving_workers SecondSignal",
    "synchronised_norm": "SynchronisedBatchNorm synchronise_batch_norm",
    "temporal_ila": (
        "Temporal TemporalModule ZeroLinear AverageToken MessageToken Shift GlobalTemporalAttention JointAttention "
        "TemporalAttention DividedAttention AlignedAttention rearranged aligned_routes TEMPORAL_MODULES "
        "HAS_FRAME_POSITIONS NEW_IN_TOWER"
    ),
    "timesformer": (
        "AlignedTimesformerConfig AlignedTimesformerLayer AlignedTimesformerOutput AlignedTimesformerModel "
        "check_clips AlignedTimesformerForVideoClassification"
    ),
    "training": (
        "NEW_PARTS SCALARS IlaTrainingArguments RELEASED_GROUPS is_new parameter_groups best_five top_accuracies "
        "class_logits several_label_scores IlaTrainer"
    ),
    "training_callbacks": "JitterDecay DataEpoch StopOnSignal",
    "training_data": (
        "UNREADABLE IGNORED NO_STAND_IN Clips EvaluationClips TrainingClips reason_of_failure ClipCollator EpochOrder"
    ),
    "training_shards": "ShardClips RowClips",
    "unreadable_videos": "REPORT UnreadableVideosError UnreadableVideos merged",
    "video_bitstream_ila": (
        "NAL_CODECS PARAMETER_SETS SEQUENCE_ENDS BROKEN_LINKS SMALL_VOP Picture picture_in vop_kinds mpeg4_frames"
    ),
    "video_check": (
        "Status Check COLUMNS REPORT_SUFFIXES POLL_SECONDS FORK_SERVER CONTEXT VideoCheck read_journal usable_cpus "
        "check_videos write_report write_clean_list"
    ),
    "video_container_ila": (
        "DEMUX_ERRORS READ_ERRORS MEDIA_FORMATS ONE_FRAME_PER_PACKET DEMUXER_RETRIES FIELDS_UNKNOWN FIELDS_NONE "
        "VideoDecodingError ReadLimits VideoFile OpenVideo opened reason_of"
    ),
    "video_decoding_ila": (
        "IndexRule SHORT PATIENCE END_SLACK NEAR IlaVideoMetadata decode_video count_frames Tally KeptFrames "
        "checked_indices scaled_size"
    ),
    "video_lists": "VIDEO_SUFFIXES SEPARATOR LABELS_AT_END HEADER ListedVideo list_videos stream_videos",
    "video_packets_ila": (
        "SEEKABLE_FORMATS UNPACKED MAX_REORDER KEY_BYTES MAX_BOXES AVINDEX_KEYFRAME AVINDEX_DISCARD NotAsListed "
        "PacketList list_by_index list_by_scan packets_from group_times needed_packets is_cut_off"
    ),
    "video_processing_ila": (
        "FRAME RESIZE_RATIO segment_indices uniform_indices dense_indices INDEX_RULES IlaVideoProcessorKwargs "
        "IlaVideoProcessor OPTION_CHECKS ALLOWED_INPUTS"
    ),
    "video_reading_ila": (
        "VideoSource IMAGE_SUFFIXES IMAGE_FORMATS DOWNLOAD_PIECE DEFAULT_LIMITS read_video check_video PlainFile"
    ),
    "video_views": (
        "PROTOCOLS AS_IS ORDERS Views Video video_loader Batch pixel_values_on Waiting in_batches draw_seed "
        "reordered shuffled_order"
    ),
    "visualization": "CELL GAP draw_alignment",
    "vit_ila": (
        "SOURCE_ARGUMENTS VIT_FIELDS VIT_TOWER VIT_WEIGHTS ABOVE_VIT is_vit config_dict_of_vit "
        "check_config_for_vit state_dict_of_vit"
    ),
    "whole_checkpoints": "COMPLETE last_complete_checkpoint what_is_missing mark_complete agree_on",
}
ROOMS = {
    module for module in OLD_NAMES if module in {room.name for room in pkgutil.iter_modules(transformers_ila.__path__)}
}


@pytest.mark.parametrize("module", OLD_NAMES)
def test_every_old_name_imports_and_warns(module):
    old = importlib.import_module(f"transformers_ila.{module}")
    for name in OLD_NAMES[module].split():
        if f"{module}.{name}" in GONE:
            with pytest.raises(ImportError, match=f"{name}` is gone"):
                getattr(old, name)
        elif name in vars(old).get("__all__", ()) or (module in ROOMS and name in vars(old)):  # a face still has it
            continue
        else:
            with pytest.warns(DeprecationWarning, match=rf"`transformers_ila.{module}.{name}` is now `") as caught:
                found = getattr(old, name)
            assert found is new_name(module, name)[1] and caught[0].filename == __file__


def test_every_row_is_of_something_old():
    assert HOMES.keys() == OLD_NAMES.keys()
    names = {f"{module}.{name}" for module, names in OLD_NAMES.items() for name in names.split()}
    assert {row for row in (*RENAMED, *GONE) if "." in row} <= names
    assert {row for row in RENAMED if "." not in row} <= {name.partition(".")[2] for name in names}


def test_what_never_was_is_an_error():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("transformers_ila.no_such_module")
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        from transformers_ila.cards import no_such_name  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        from transformers_ila.data import no_such_name  # noqa: F401


def test_files_of_a_room_are_no_old_names():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from transformers_ila.evaluation import metrics, report
        from transformers_ila.training import checkpoints
    assert metrics.__name__ == "transformers_ila.evaluation.metrics"
    assert report.__spec__ is not None and checkpoints.__spec__ is not None


def test_old_pickles_load(tmp_path):
    """Such as the `training_args.bin` of a checkpoint."""
    arguments = pickle.dumps(IlaTrainingArguments(str(tmp_path), report_to="none"), protocol=2)
    old = arguments.replace(b"ctransformers_ila.training.arguments\n", b"ctransformers_ila.training\n")
    assert old != arguments and pickle.loads(old).output_dir == str(tmp_path)
    elsewhere = b"ctransformers_ila.video_container_ila\nReadLimits\n."
    with pytest.warns(DeprecationWarning, match="model.video_container_ila.ReadLimits"):
        assert pickle.loads(elsewhere) is transformers_ila.ReadLimits


def test_nothing_is_listed_or_imported_until_asked_for():
    assert not {module.name for module in pkgutil.iter_modules(transformers_ila.__path__)} & (set(HOMES) - ROOMS)
    code = """
import sys, transformers_ila
assert not any(name.startswith(("transformers_ila.hub", "transformers_ila.cards")) for name in sys.modules)
import transformers_ila.cards
assert transformers_ila.cards.__spec__.name == "transformers_ila.cards" and "transformers_ila.hub" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
