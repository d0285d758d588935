"""Values that cannot be made with what no engine could do."""

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.base.load_config import LoadConfig


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        ("context_length", -1, "0 and 2147483647"),
        ("context_length", 2**31, "0 and 2147483647"),
        ("context_length", 4096.0, "0 and 2147483647"),
        ("parallel", 0, "1 and 256"),
        ("parallel", 257, "1 and 256"),
        ("parallel", True, "1 and 256"),
        ("threads", -1, "0 and 512"),
        ("threads", 513, "0 and 512"),
        ("max_waiting", -1, "0 and 1048576"),
        ("batch_size", 0, "1 and 1048576"),
        ("gpu_layers", -2, "-1 and 2147483647"),
    ],
)
def test_a_load_config_names_the_number_out_of_range(name, value, range_):
    with pytest.raises(InvalidRequestError) as caught:
        LoadConfig(**{name: value})
    assert caught.value.param == name
    assert caught.value.message == f"{name} is {value!r}; it must be between {range_}"


def test_a_load_config_takes_the_ends_of_its_ranges():
    LoadConfig(context_length=0, parallel=1, threads=0, batch_size=1, gpu_layers=-1, max_waiting=0)
    LoadConfig(context_length=2**31 - 1, parallel=256, threads=512, batch_size=2**20)
