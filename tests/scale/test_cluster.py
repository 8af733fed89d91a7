"""How actors share a cluster: by default nothing hangs on a small one; what is asked for is there, or refused."""

from types import SimpleNamespace

import pytest

from transformers_ila.scale import cluster
from transformers_ila.scale.cluster import plan_actors
from transformers_ila.scale.options import EngineOptions


def shared_out(cpus, gpus=0, *, nodes=1, device=None, free=None, **asked):
    ray = SimpleNamespace(
        cluster_resources=lambda: {"CPU": float(cpus), "GPU": float(gpus)},
        available_resources=lambda: free,
        nodes=lambda: nodes * [{"Alive": True, "Resources": {"CPU": cpus / nodes}}],
    )
    return plan_actors(ray, EngineOptions(engine="ray", **asked), device, is_local=free is None)


@pytest.mark.parametrize(
    ("cpus", "gpus", "readers", "replicas"),
    [
        (1, 0, 1, 1),
        (2, 0, 1, 1),
        (3, 0, 1, 1),
        (16, 0, 14, 1),
        (16, 2, 13, 2),
        (2, 1, 1, 1),
        (1, 1, 1, 1),
        (4, 8, 1, 8),
    ],
)
def test_what_is_taken_by_default(cpus, gpus, readers, replicas):
    found = shared_out(cpus, gpus)
    assert (found.readers, found.replicas, found.gpus) == (readers, replicas, gpus > 0)
    taken = readers * found.reader_resources["num_cpus"] + replicas * found.replica_resources["num_cpus"]
    assert taken <= cpus - 1 and found.cpus <= 1  # the rest is for Ray's own tasks
    assert ("num_gpus" in found.replica_resources) == found.gpus and found.device == ("cuda:0" if gpus else "cpu")


def test_what_is_asked_for():
    found = shared_out(16, readers=3, replicas=4, nodes=2)
    assert (found.readers, found.replicas, found.replicas_of_a_node, found.cpus) == (3, 4, 2, 1.0)
    assert str(found) == "Ray: 3 readers, 4 replicas on the CPU"
    assert str(shared_out(16, 1, readers=1)) == "Ray: 1 reader, 1 replica each with a GPU"
    assert not shared_out(16, 2, device="cpu").gpus


@pytest.mark.parametrize(
    ("cpus", "fields", "message"),
    [
        (
            4,
            {"readers": 4},
            "4 readers and 1 replica take 6 CPUs with one for .* has 4 CPUs and 0 GPUs",
        ),
        (2, {"replicas": 2}, "1 reader and 2 replicas take 4 CPUs .*: ask for fewer by --readers and --replicas"),
        (4, {"device": "cuda"}, "A GPU for each of 1 replica is asked for, and the cluster has 4 CPUs and 0 GPUs"),
        (
            4,
            {"device": "cuda", "replicas": 3},
            "A GPU for each of 3 replicas is asked for, and",
        ),
        (0, {}, "Ray's own tasks take a CPU, and the cluster has 0 CPUs and 0 GPUs"),
    ],
)
def test_a_cluster_that_is_too_small(cpus, fields, message):
    with pytest.raises(ValueError, match=message):
        shared_out(cpus, **fields)


def test_the_address_of_the_environment_is_checked_as_the_option_is(monkeypatch):
    monkeypatch.setattr(cluster, "import_ray", lambda: SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    with pytest.raises(ValueError, match="RAY_ADDRESS 'ray://127.0.0.1:10001' is a Ray client's"):
        with cluster.join_cluster(EngineOptions(engine="ray"), None):
            pass


@pytest.mark.parametrize(
    ("free", "gpus", "told"),
    [
        ({"CPU": 8.0}, 0, ""),
        ({"CPU": 8.0, "GPU": 1.0}, 1, ""),
        ({}, 0, "This run takes 8 CPUs of the cluster, and 0 are free"),
        ({"CPU": 7.5}, 0, "takes 8 CPUs of the cluster, and 7 are free"),
        ({"CPU": 8.0}, 1, "takes 1 GPU of the cluster, and 0 are free"),
    ],
)
def test_what_others_hold_is_told(free, gpus, told, caplog):
    shared_out(8, gpus, free=free)
    assert told in caplog.text and bool(told) == bool(caplog.text)
