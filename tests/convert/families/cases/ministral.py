"""The test cases of ministral."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import WINDOW, layers

CASES = FamilyCases(
    models={
        "window in some layers": {**WINDOW, "head_dim": 8, **layers("fs")},
    },
    refused=(
        ({"layer_types": ["full_attention"]}, r"layer_types=\['full_attention'\]"),
        ({"layer_types": ["chunked_attention"] * 2}, "layer_types=.*chunked_attention"),
        ({"layer_types": ["sliding_attention"] * 2, "sliding_window": None}, "sliding_window=None"),
    ),
)
