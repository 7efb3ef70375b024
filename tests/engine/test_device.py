"""Where it computes: what is there is taken, what is not there is said."""

import jax
import pytest

from streamcls.engine.device import list_buckets, select_device
from streamcls.errors import ModelError


def test_the_cpu_is_always_there() -> None:
    assert select_device("cpu").startswith("cpu")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator here")
@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_device_that_is_not_there_is_refused_with_a_remedy(kind) -> None:
    assert select_device("auto").startswith("cpu")
    with pytest.raises(ModelError, match=rf"device = '{kind}'.* only: cpu; .*pip install"):
        select_device(kind)


@pytest.mark.parametrize("streams", [1, 2, 5, 32, 33, 10_000])
def test_buckets_hold_a_tile_of_all_streams(streams: int) -> None:
    select_device("cpu")
    buckets = list_buckets(streams)
    assert buckets[0] == 1
    assert buckets == sorted(set(buckets))
    assert min(streams, 32) <= buckets[-1] <= 32
