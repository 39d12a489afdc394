"""The kinds of files that are tried: what is changed, how, and what reads them as a run would."""

import dataclasses
import gzip
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from fuzzing import changes, models, rows, settings

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "configs" / "debug_model"


@dataclasses.dataclass(frozen=True)
class Kind:
    """
    Attributes:
        seeds: fills a folder with folders, in each the files of one good case.
        changed: names of the files that are changed, one in each case.
        change: gives the new content of one.
        read: reads what is in the folder of a case; UserError where it is refused.
    """

    seeds: Callable[[Path], None]
    changed: str
    change: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], None]

    def make(self, seeds: Path, case: Path, chance: random.Random) -> None:
        """One case, in a folder that is made anew."""
        shutil.rmtree(case, ignore_errors=True)
        seed = chance.choice(sorted(seeds.iterdir()))
        shutil.copytree(seed, case)
        files = (path for path in sorted(case.rglob("*")) if path.is_file())
        file = chance.choice([path for path in files if re.fullmatch(self.changed, path.name)])
        file.write_bytes(self.change(file.read_bytes(), chance))


def _json(data: bytes, chance: random.Random) -> bytes:
    return changes.of_json(data, chance)


def _gzip(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return changes.of_bytes(data, chance)
    return gzip.compress(changes.of_lines(gzip.decompress(data), chance), mtime=0)


KINDS = {
    "jsonl": Kind(rows.jsonl_seeds, r".*\.jsonl", changes.of_lines, rows.read),
    "json": Kind(rows.json_seeds, r".*\.json", _json, rows.read),
    "gz": Kind(rows.gz_seeds, r".*\.gz", _gzip, rows.read),
    "zst": Kind(rows.zst_seeds, r".*\.zst", rows.change_zst, rows.read),
    "parquet": Kind(rows.parquet_seeds, r".*\.parquet", rows.change_parquet, rows.read),
    "array_record": Kind(rows.array_record_seeds, r".*\.array_record", changes.of_bytes, rows.read),
    "template": Kind(settings.template_seeds, r".*\.jinja", settings.change_template, rows.read),
    "overrides": Kind(
        settings.override_seeds, "flags.json", settings.change_overrides, settings.read_overrides
    ),
    "config": Kind(models.config_seeds, r".*config\.json", _json, models.read_config),
    "tokenizer": Kind(
        models.tokenizer_seeds,
        r"tokenizer.*|special.*",
        models.change_tokenizer,
        models.read_tokenizer,
    ),
    "safetensors": Kind(
        models.safetensors_seeds,
        r".*\.(safetensors|index\.json)",
        models.change_safetensors,
        models.read_weights,
    ),
    "gguf": Kind(models.gguf_seeds, r".*\.gguf", models.change_gguf, models.read_gguf),
    "adapter": Kind(models.adapter_seeds, r"adapter.*", models.change_adapter, models.read_adapter),
    "checkpoint": Kind(
        models.checkpoint_seeds,
        r"_METADATA|.*json|manifest.*|_.*|[0-9a-f]{32}",
        models.change_checkpoint,
        models.read_checkpoint,
    ),
}
