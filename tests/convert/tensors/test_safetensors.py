"""safetensors files: broken ones are explained, and what is written reads back equal everywhere."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsft.convert.tensors import safetensors_read, safetensors_write
from jaxsft.convert.tensors.safetensors_read import INDEX, SINGLE
from jaxsft.convert.tensors.safetensors_write import Planned
from jaxsft.errors import ConversionError

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([-0.0, 1e-45, 3.4e38], np.float32)  # signed zero, subnormal, nearly the largest


def one_file(directory, **tensors):
    save_file(tensors or {"a": A, "b": B}, directory / SINGLE)
    return directory / SINGLE


def two_shards(directory, weight_map=None):
    save_file({"a": A}, directory / "1.safetensors")
    save_file({"b": B}, directory / "2.safetensors")
    weight_map = weight_map or {"a": "1.safetensors", "b": "2.safetensors"}
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("write", [one_file, two_shards])
def test_tensors_read_as_they_were_written(write, tmp_path):
    write(tmp_path)
    directory = safetensors_read.Directory(tmp_path)
    assert sorted(directory.names()) == ["a", "b"]
    assert directory.read("a").tobytes() == A.tobytes()
    assert directory.read("b").tobytes() == B.tobytes()
    assert directory.read("a")[1:, :2].tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("max_bytes", [10**9, 24, 1])
def test_what_is_written_the_library_reads_back_bit_for_bit(max_bytes, tmp_path):
    tensors = {"half": A.astype(np.float16), "a": A, "brain": B.astype(ml_dtypes.bfloat16), "b": B}
    planned = [Planned(name, array.dtype, array.shape) for name, array in tensors.items()]
    digests = safetensors_write.write(tmp_path, planned, tensors.__getitem__, max_bytes)
    read = {}
    files = sorted(tmp_path.glob("*.safetensors"))
    for file in files:
        part = load_file(file)
        assert not read.keys() & part.keys()
        read |= part
    assert read.keys() == tensors.keys()
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype
        assert read[name].tobytes() == array.tobytes()
        assert digests[name] == safetensors_write.digest(array)
    sizes = {10**9: [SINGLE], 24: 3, 1: 4}[max_bytes]
    assert sizes in ([f.name for f in files], len(files))
    if len(files) > 1:
        index = json.loads((tmp_path / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(a.nbytes for a in tensors.values())
        assert safetensors_read.Directory(tmp_path).read("a").tobytes() == A.tobytes()


A_ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
TWICE = b'{"a": %s, "a": %s}' % ((json.dumps(A_ENTRY).encode(),) * 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model.safetensors: is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "is a Git LFS pointer"),
        (b"<html><body>Service Unavailable", "is an HTML page"),
        (b"\x80\x04\x95pickle", r"not a whole safetensors file \(9 bytes\)"),
        (with_header({"a": A_ENTRY})[:40], r"not a whole safetensors file \(40 bytes\)"),
        (with_header({"a": A_ENTRY}, A.tobytes()[:-1]), "file size 96, header says 97"),
        (with_header({"a": A_ENTRY}, A.tobytes() + b"x"), "file size 98, header says 97"),
        (with_header(TWICE, A.tobytes()), "header: is not valid JSON: 'a' is given twice"),
        (
            with_header({"a": A_ENTRY | {"shape": [2, 4]}}, A.tobytes()),
            "invalid shape, data type, or offset",
        ),
        (
            with_header({"a": A_ENTRY | {"dtype": "F64", "shape": [3]}}, A.tobytes()),
            "a has dtype F64",
        ),
        (with_header({"a": 1}), "invalid type: integer `1`"),
        (with_header(b'{"a":' * 100_000), "header: is nested too deeply"),
    ],
    ids=range(12),
)
def test_a_broken_file_is_explained(content, message, tmp_path):
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        safetensors_read.Directory(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../x.safetensors"}, "file '../x.safetensors' is not a plain name"),
        ({"a": "/etc/passwd"}, "file '/etc/passwd' is not a plain name"),
        ({"a": "..\\x"}, "is not a plain name"),
        ({"a": 7}, "file 7 is not a plain name"),
        ({"a": "1.safetensors", "b": "3.safetensors"}, "shard 3.safetensors is missing"),
        ({"a": "2.safetensors", "b": "2.safetensors"}, "a is not in 2.safetensors"),
        ({"a": "1.safetensors", "c": "2.safetensors"}, "c is not in 2.safetensors"),
        ([1], r"weight_map=\[1\]"),
    ],
)
def test_a_wrong_index_is_refused(weight_map, message, tmp_path):
    two_shards(tmp_path, weight_map)
    with pytest.raises(ConversionError, match=message):
        safetensors_read.Directory(tmp_path)


def test_tensors_beside_the_index_and_twice_are_refused(tmp_path):
    two_shards(tmp_path)
    save_file({"b": B, "c": B}, tmp_path / "2.safetensors")
    with pytest.raises(ConversionError, match="2.safetensors: c is not in the index"):
        safetensors_read.Directory(tmp_path)
    save_file({"a": A, "b": B}, tmp_path / "2.safetensors")
    with pytest.raises(ConversionError, match="a is in both 1.safetensors and 2.safetensors"):
        safetensors_read.Directory(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors"])
def test_an_index_of_the_one_file_is_accepted_and_checked(name, tmp_path):
    save_file({"a": A, "b": B}, tmp_path / name)
    index = tmp_path / f"{name}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name, "b": name}}))
    assert safetensors_read.Directory(tmp_path, name).names() == ["a", "b"]
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConversionError, match=f"{name}: b is not in the index"):
        safetensors_read.Directory(tmp_path, name)


def test_two_models_in_one_directory_are_refused(tmp_path):
    two_shards(tmp_path)
    one_file(tmp_path)
    with pytest.raises(
        ConversionError, match="has both model.safetensors and model.safetensors.ind"
    ):
        safetensors_read.Directory(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", r"pickled weights only \(pytorch_model.bin\).*save_pretrained"),
        ("pytorch_model.bin.index.json", "pickled weights only"),
        ("consolidated.safetensors", "it has consolidated.safetensors"),
        ("notes.txt", "has neither model.safetensors nor"),
    ],
)
def test_a_directory_without_readable_weights_is_explained(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(ConversionError, match=message):
        safetensors_read.Directory(tmp_path)
