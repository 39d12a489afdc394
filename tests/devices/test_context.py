"""One row spread over devices: the same training, in an eighth of the memory on eight of them."""

import dataclasses

import jax
import pytest
import tiny

from jaxsft.config import Mesh
from jaxsft.kernels.attention import blocked
from jaxsft.training import mesh_program
from tests.training.test_mesh_fit import config
from tests.training.test_step import assert_same_training

BLOCKED = dataclasses.replace(tiny.SETTINGS, attention_back_end="blocked")


@pytest.fixture(scope="module")
def one_device():
    return tiny.run_steps(tiny.uneven_batch())


@pytest.mark.parametrize(
    "sizes",
    [Mesh(context=8), Mesh(fsdp=1, context=2, tensor=4)],
    ids=["context=8", "context=2 tensor=4"],
)
def test_blocks_and_spread_rows_train_as_all_logits_at_once_on_one_device(
    monkeypatch, one_device, sizes
):
    """Rows of several blocks and segments, of which a device may hold parts only."""
    monkeypatch.setattr(blocked, "_MAX_BLOCK_SIZE", 8)
    spread = tiny.run_steps(tiny.uneven_batch(), sizes=sizes, model=BLOCKED)
    assert_same_training(spread, one_device)


def test_a_long_row_is_spread_and_only_keys_and_values_are_whole(monkeypatch):
    monkeypatch.setattr(blocked, "_MAX_BLOCK_SIZE", 64)  # whose logits grow with nothing
    length = 8192
    model = dataclasses.replace(tiny.SETTINGS, num_kv_heads=1, max_positions=length)

    def temporaries(devices):
        asked = config(Mesh(data=1, fsdp=1, context=devices), batch_size=1)
        asked = dataclasses.replace(
            asked,
            data=dataclasses.replace(asked.data, sequence_length=length),
            # With all kept: the less one device keeps, the more the whole keys and values weigh.
            model=dataclasses.replace(asked.model, dtype="float32", remat="none"),
        )
        mesh = mesh_program.checked_mesh(asked, model, jax.devices()[:devices])
        built = mesh_program.make_program(asked, model, 2, mesh)
        assert built.settings.attention_back_end == "blocked"
        return mesh_program.compile_train_step(built, asked).memory_analysis().temp_size_in_bytes

    alone, spread = temporaries(1), temporaries(8)
    keys_and_values = 2 * length * model.num_kv_heads * model.head_dim * 4
    # Those that each layer keeps, and in one layer those before the cut into blocks and gradients.
    assert spread <= alone / 8 + (model.num_layers + 4) * keys_and_values
    assert spread < alone / 6, (alone, spread)
