"""Options of the engine: each has an effect or is an error."""

import pytest

from transformers_ila.scale.options import EngineOptions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine": "spark"}, "engine must be one of plain, ray, got 'spark'"),
        ({"readers": 2}, "--readers would have no effect; allowed: beside --engine ray"),
        ({"retries": 0, "address": "auto"}, "--address, --retries would have no effect"),
        ({"engine": "ray", "readers": 0}, "readers must be a whole number of 1 or more, got 0"),
        ({"engine": "ray", "replicas": 10**9}, "replicas must be at most 1024, got 1000000000"),
        ({"engine": "ray", "retries": -1}, "retries must be a whole number of 0 or more, got -1"),
        ({"engine": "ray", "video_timeout": 0}, "video_timeout must be a number of seconds, 0.01 or more, got 0"),
        ({"engine": "ray", "id_column": ""}, "id_column must not be empty"),
        ({"engine": "ray", "address": "Ray://me:pw@h:1"}, r"address 'Ray://\*\*\*@h:1' is a Ray client's"),
        ({"engine": "ray", "address": "head"}, "address must be auto, local or host:port, got 'head'"),
        ({"engine": "ray", "address": "me:pw@h:1"}, r"host:port, got '\*\*\*@h:1'"),
        ({"engine": "ray", "address": "http://h:8265"}, "address must be auto, local or host:port"),
    ],
)
def test_values_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EngineOptions(**fields)


def test_values_that_are_taken():
    assert EngineOptions().engine == "plain"
    assert EngineOptions(engine="ray", readers=3, retries=0, video_timeout=1.5).readers == 3
    for address in ("auto", "local", "10.0.0.1:6379", "ray-head.default.svc:6379", "[::1]:6379"):
        assert EngineOptions(engine="ray", address=address).address == address
