"""What of config.data its fields alone cannot show."""

import datetime
import math

from jaxsft.config.data import Data
from jaxsft.errors import ConfigError


def check_data(data: Data) -> None:
    """Raises ConfigError naming a field, its value and what would be right."""
    if data.sequence_length < 2:
        raise ConfigError(
            f"config.data.sequence_length={data.sequence_length}:"
            " a target needs a token before it; must be 2 or more"
        )
    if data.cache_dir is not None and "://" in data.cache_dir:
        raise ConfigError(
            f"config.data.cache_dir={data.cache_dir}: is mapped into memory, which needs a local"
            " disk or a mount that the hosts share; the path of a Source may be a URL"
        )
    if not data.train:
        raise ConfigError("config.data.train=(): at least one Source is needed")
    for kind in ("train", "eval"):
        for index, source in enumerate(getattr(data, kind)):
            here = f"config.data.{kind}[{index}]"
            given = {"weight": source.weight, "count": source.count}
            for name, value in given.items():
                if value is not None and not 0 < value < math.inf:
                    raise ConfigError(f"{here}.{name}={value}: must be finite and greater than 0")
            if None not in given.values():
                raise ConfigError(
                    f"{here}: weight={source.weight} and count={source.count}; set one"
                )
            if kind == "eval" and (source.weight, source.count) != (None, None):
                raise ConfigError(f"{here}: weight and count are for training; evaluation sees all")
    _check_parts(data.holdout, data.share)
    if data.template_date is not None and not _is_date(data.template_date):
        raise ConfigError(f"config.data.template_date={data.template_date}: expected YYYY-MM-DD")
    if not data.train_parts or len(set(data.train_parts)) < len(data.train_parts):
        raise ConfigError(
            f"config.data.train_parts={data.train_parts}: must name at least one part, each once"
        )


def _check_parts(holdout: int | float | None, share: float | None) -> None:
    if share is not None and not 0 < share <= 1:
        raise ConfigError(f"config.data.share={share}: must be more than 0, and 1 at most")
    if isinstance(holdout, float) and not 0 < holdout < 1:
        raise ConfigError(
            f"config.data.holdout={holdout}: a share must lie between 0 and 1, as 0.05 does; a"
            " whole number, such as 200, is a number of rows"
        )
    if isinstance(holdout, int) and holdout < 1:
        raise ConfigError(
            f"config.data.holdout={holdout}: must be 1 row or more, or a share such as 0.05; None"
            " holds out nothing"
        )


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
