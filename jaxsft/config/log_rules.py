"""What of config.log its fields alone cannot show."""

from jaxsft.config.run import Log
from jaxsft.errors import ConfigError


def check_log(log: Log) -> None:
    """Raises ConfigError naming a field, its value and what would be right."""
    if len(set(log.writers)) < len(log.writers):
        raise ConfigError(f"config.log.writers={log.writers}: expected each of them once")
