"""Whether transformers computes from an export what we do."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxsft.convert import api
from jaxsft.convert.families import multimodal
from jaxsft.convert.tensors.safetensors_read import ANY_DTYPES, Directory
from jaxsft.convert.vocabulary.check_tokenizer import PROBES, open_with_transformers
from jaxsft.devices import mesh
from jaxsft.errors import ConversionError
from jaxsft.files import untrusted

TOLERANCE = 1e-4  # of the largest logit, or of 1: float32 sums in another order
MAX_PARAMETERS = 2 * 10**9  # two models in float32: 16 GB
_MAX_TOKENS = 128


def compare_logits(directory: Path, max_parameters: int = MAX_PARAMETERS) -> float:
    """The largest difference between our logits and those of transformers, both in float32.

    Needs torch, which nothing else here does.

    Raises:
        ConversionError: no torch, a model too large to hold twice, or another model for others.
    """
    tensors = Directory(directory, dtypes=ANY_DTYPES)
    size = sum(int(np.prod(tensors.shape(name))) for name in tensors.names())
    refuse_if_not_possible(directory, size, max_parameters)
    tokens_BT = _rows(directory)
    theirs_BTV = _their_logits(directory, tokens_BT)
    with jax.set_mesh(mesh.single_device_mesh()):
        model = api.load_model(directory)
        ours_BTV = np.asarray(nnx.jit(lambda model, tokens: model(tokens))(model, tokens_BT))
    difference = float(np.abs(ours_BTV - theirs_BTV).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(theirs_BTV).max()))
    if not difference <= allowed:  # NaN too
        raise ConversionError(
            f"{directory}: logits differ by {difference:.3g} from those of transformers, more than"
            f" {allowed:.3g}; please report this model"
        )
    return difference


def refuse_if_not_possible(
    name: Path | str, num_parameters: int, max_parameters: int = MAX_PARAMETERS
) -> None:
    """Raises ConversionError where `compare_logits` can't be called, as `name` asks for."""
    if importlib.util.find_spec("torch") is None:
        raise ConversionError(f"{name}: comparing logits needs torch; pip install 'jaxsft[test]'")
    if num_parameters > max_parameters:
        raise ConversionError(
            f"{name}: {num_parameters} parameters are more than max_parameters={max_parameters};"
            " its logits can't be compared here"
        )


def _rows(directory: Path) -> np.ndarray:
    """The probes in both orders, as token ids."""
    tokenizer = open_with_transformers(directory)
    rows = [tokenizer(" ".join(texts)).input_ids for texts in (PROBES, PROBES[::-1])]
    length = min(_MAX_TOKENS, *map(len, rows))
    return np.asarray([row[:length] for row in rows], np.int32)


def _their_logits(directory: Path, tokens_BT: np.ndarray) -> np.ndarray:
    import torch
    import transformers

    whole = multimodal.wrapper(untrusted.read_json(directory / "config.json")) is not None
    auto = transformers.AutoModelForImageTextToText if whole else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    with torch.no_grad():
        return model(torch.tensor(tokens_BT, dtype=torch.long)).logits.numpy()
