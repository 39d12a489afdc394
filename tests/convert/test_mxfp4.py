"""mxfp4 blocks unpacked as transformers does, over all scales and all bytes."""

import numpy as np
import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from jaxsft.convert.mxfp4 import dequantise
from jaxsft.errors import ConversionError


def test_all_scales_and_bytes_are_bit_equal_to_transformers():
    scales = np.arange(256, dtype=np.uint8).reshape(2, 128, 1).repeat(16, axis=2)
    blocks = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, 128, 16, 16))
    ours = dequantise(blocks, scales, "w")
    for dtype in (torch.float32, torch.bfloat16):
        theirs = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=dtype)
        assert ours.shape == tuple(theirs.shape)
        expected = theirs.float().numpy()
        np.testing.assert_array_equal(ours.view(np.int32), expected.view(np.int32))


def test_parts_that_do_not_belong_together_are_refused():
    blocks, scales = np.zeros((2, 4, 3, 16), np.uint8), np.zeros((2, 4, 3), np.uint8)
    with pytest.raises(ConversionError, match=r"down: blocks \(2, 4, 3, 16\) and scales \(2, 3\)"):
        dequantise(blocks, scales[:, :, 0][:, :3], "down")
    with pytest.raises(ConversionError, match="down_scales: is float32, expected uint8"):
        dequantise(blocks, scales.astype(np.float32), "down")
