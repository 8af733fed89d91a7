"""The examples beside what reads them: ShellCheck, the schema that KubeRay publishes, and Slurm where it is installed.

`python tests/extra/check_examples.py CRD.yaml` makes kuberay_rayjob.json anew from KubeRay's
ray-operator/config/crd/bases/ray.io_rayjobs.yaml.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("kuberay_rayjob.json")
SCRIPTS = [*sorted((ROOT / "examples").rglob("*.sh")), ROOT / "tests" / "support" / "two_machines.sh"]
SLURM = ("slurmctld", "slurmd", "munged", "sbatch")


# -- KubeRay ---------------------------------------------------------------------------------------------------------


def shrink(crd):
    """Version v1 of a custom resource as a JSON schema: without descriptions and status, equal parts once in $defs."""

    def without_text(node):
        if isinstance(node, dict):
            return {
                key: without_text(part)
                for key, part in node.items()
                if not (key == "description" and isinstance(part, str))
            }
        return [without_text(part) for part in node] if isinstance(node, list) else node

    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema = without_text(version["schema"]["openAPIV3Schema"])
    del schema["properties"]["status"]
    times: Counter = Counter()

    def count(node):
        if isinstance(node, dict):
            times[json.dumps(node, sort_keys=True)] += 1
        for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            count(part)

    count(schema)
    names: dict = {}
    definitions: dict = {}

    def share(node):
        if isinstance(node, list):
            return [share(part) for part in node]
        if not isinstance(node, dict):
            return node
        text = json.dumps(node, sort_keys=True)
        if times[text] == 1 or len(text) < 80 or not isinstance(node.get("type"), str):
            return {key: share(part) for key, part in node.items()}
        if text not in names:
            names[text] = str(len(names))
            definitions[names[text]] = {key: share(part) for key, part in node.items()}
        return {"$ref": f"#/$defs/{names[text]}"}

    return {**share(schema), "$defs": definitions}


def strict(node):
    """The schema as the API server reads it, which takes no field that it does not know."""
    if isinstance(node, list):
        return [strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: strict(part) for key, part in node.items()}
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        node.setdefault("additionalProperties", False)
    return node


def faults(job):
    import jsonschema

    found = jsonschema.Draft202012Validator(strict(json.loads(SCHEMA.read_text("utf-8")))).iter_errors(job)
    return [f"{error.json_path}: {error.message}" for error in found]


@pytest.fixture
def job():
    job = yaml.safe_load((ROOT / "examples" / "kuberay" / "rayjob.yaml").read_text("utf-8"))
    job["metadata"] = {}  # of which the schema says only that it is an object
    return job


def test_ray_job(job):
    assert faults(job) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.update(entrypiont="ila"), "'entrypiont' was unexpected"),
        (lambda spec: spec.update(backoffLimit="3"), "backoffLimit: '3' is not of type 'integer'"),
        (lambda spec: spec["rayClusterSpec"].pop("headGroupSpec"), "'headGroupSpec' is a required property"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(cpus=1), "'cpus' was unexpected"),
    ],
)
def test_the_schema_finds_what_is_wrong(job, change, message):
    change(job["spec"])
    assert any(message in fault for fault in faults(job)), faults(job)


# -- shell scripts ---------------------------------------------------------------------------------------------------


def test_shellcheck():
    checked = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


# -- Slurm -----------------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of one node on the loopback, with four CPUs by its own account; its commands' environment."""
    missing = [name for name in SLURM if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"Slurm for real needs root and {', '.join(missing or SLURM)} (Debian: slurmctld, slurmd, munge)")
    place = tmp_path_factory.mktemp("slurm")
    place.chmod(0o755)
    host, secret = socket.gethostname(), place / "munge"
    secret.mkdir(mode=0o755)
    (secret / "key").write_bytes(os.urandom(128))
    (secret / "key").chmod(0o400)
    (place / "slurm.conf").write_text(f"""
ClusterName=ila
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={secret}/socket
CredType=cred/munge
StateSaveLocation={place}
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES
""")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    environment = {**os.environ, "SLURM_CONF": str(place / "slurm.conf"), "PATH": path}
    munge = [f"--{name}={secret}/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    commands = (
        ["munged", "--foreground", "--force", f"--key-file={secret}/key", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    started = []
    with open(place / "log", "w") as log:
        for command in commands:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
            time.sleep(1)
    yield environment
    for process in reversed(started):
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with videos, and a model of their classes."""
    from support.tiny_models import save_clip
    from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
    from transformers_ila.motionbench.tasks import write_folder

    place = tmp_path_factory.mktemp("material")
    write_folder(place / "path" / "to" / "videos", 16, seed=0, num_frames=6)
    save_clip(place / "clip")
    labels = sorted(path.name for path in (place / "path" / "to" / "videos").iterdir())
    model = IlaForVideoClassification.from_pretrained(
        place / "clip", labels=labels, num_frames=4, alignment_hidden_size=8
    )
    model.save_pretrained(place / "my-ila")
    IlaVideoProcessor.for_model(model.config).save_pretrained(place / "my-ila")
    return place


def submit(slurm, place, script, *words, **options):
    """What a job prints; the options of sbatch are laid over the script's."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = ["sbatch", "--wait", "--output=job.txt", "--open-mode=truncate", *given, str(script), *words]
    done = subprocess.run(command, cwd=place, env=slurm, capture_output=True, text=True, timeout=550)
    printed = (place / "job.txt").read_text() if (place / "job.txt").exists() else ""
    assert done.returncode == 0, done.stderr + printed
    return printed


ONE_NODE = {"nodes": 1, "gpus_per_node": 0, "cpus_per_task": 1}


def names_of(folder):
    import pyarrow.parquet

    return [
        name for part in folder.glob("*.parquet") for name in pyarrow.parquet.read_table(part)["video"].to_pylist()
    ]


def test_slurm_shares_the_videos(slurm, material):
    """Two tasks, each its share, every video once; then a batch script without srun, which does all that is new."""
    script = ROOT / "examples" / "slurm" / "predict.sh"
    printed = submit(slurm, material, script, ntasks_per_node=2, **ONE_NODE)
    counts = [int(n) for n in re.findall(r"Process \d of 2: (\d+) videos labelled, 0 unreadable", printed)]
    assert len(counts) == 2 and sum(counts) == 16 and min(counts) > 0
    names = names_of(material / "labels")
    assert len(names) == len(set(names)) == 16
    again = submit(slurm, material, script, ntasks_per_node=4, **ONE_NODE)
    assert again.count("0 videos labelled") == 4 and len(names_of(material / "labels")) == 16
    (material / "alone.sh").write_text(script.read_text().replace("srun ila", "ila").replace("labels", "alone"))
    alone = submit(slurm, material, "alone.sh", ntasks_per_node=2, **ONE_NODE)
    assert "Slurm was asked for 2 tasks" in alone and "\n16 videos labelled, 0 unreadable" in alone


def test_slurm_arrays(slurm, material):
    text = (ROOT / "examples" / "slurm" / "predict_array.sh").read_text()
    (material / "array.sh").write_text(text.replace("WORLD_SIZE=16", "WORLD_SIZE=2").replace("labels", "shares"))
    submit(slurm, material, "array.sh", array="0-1", gpus=0, cpus_per_task=1)
    names = names_of(material / "shares")
    assert len(names) == len(set(names)) == 16
    before = sorted(path.stat().st_mtime_ns for path in (material / "shares").glob("*.parquet"))
    submit(slurm, material, "array.sh", array="1", gpus=0, cpus_per_task=1)  # one share again: nothing is left to do
    assert before == sorted(path.stat().st_mtime_ns for path in (material / "shares").glob("*.parquet"))


FIELDS = {
    "num_frames": 4, "config": '{"alignment_hidden_size": 8}', "clip": "clip", "global_batch_size": 4,
    "per_device_train_batch_size": 2, "max_steps": 2, "bf16": "false", "dataloader_num_workers": 0,
    "dataloader_persistent_workers": "false", "disable_tqdm": "true", "report_to": "none", "use_cpu": "true",
}  # fmt: skip


def test_slurm_trains(slurm, material):
    """By Accelerate, one launcher a machine; and by srun alone, a process for each task."""
    words = [f"--{name}={value}" for name, value in FIELDS.items()]
    printed = submit(slurm, material, ROOT / "examples" / "slurm" / "train.sh", *words, ntasks_per_node=1, **ONE_NODE)
    assert "1 processes, 4 videos a step" in printed and "Trained 2 steps." in printed
    command = "ila train small_b16_8f --train_list path/to/videos --output_dir direct --expect_processes 2"
    addresses = f"export MASTER_ADDR=127.0.0.1 MASTER_PORT={free_port()}"
    for name, first in (("direct", addresses), ("nowhere", "")):
        quoted = " ".join(f"'{word}'" for word in words)
        (material / f"{name}.sh").write_text(f"#!/bin/bash\n{first}\nsrun {command} {quoted} || true\n")
    printed = submit(slurm, material, "direct.sh", ntasks=2)
    assert "2 processes, 4 videos a step" in printed and printed.count("Trained 2 steps.") == 1
    assert "2 processes meet at MASTER_ADDR and MASTER_PORT" in submit(slurm, material, "nowhere.sh", ntasks=2)


def test_slurm_evaluates(slurm, material):
    (material / "evaluate.sh").write_text(
        f"#!/bin/bash\nexport MASTER_ADDR=127.0.0.1 MASTER_PORT={free_port()}\n"
        "srun ila evaluate --model my-ila --videos path/to/videos --output report.json\n"
    )
    printed = submit(slurm, material, "evaluate.sh", ntasks=2)
    assert printed.count("16 of 16, 0 unreadable") == 1 and (material / "report.json").is_file()


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(shrink(yaml.safe_load(Path(sys.argv[1]).read_text("utf-8"))), indent=None) + "\n")
