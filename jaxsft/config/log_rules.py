"""What of config.log its fields alone cannot show."""

from jaxsft.config.run import Log
from jaxsft.errors import ConfigError


def check_log(log: Log) -> None:
    """Raises ConfigError naming a field, its value and what would be right."""
    steps = log.profile_steps
    if steps is not None and not (len(steps) == 2 and 1 <= steps[0] < steps[1]):
        raise ConfigError(
            f"config.log.profile_steps={steps}: expected the first and the last step of a trace, a"
            " later one, such as 10,13; the first step of a run is 1"
        )
    if len(set(log.writers)) < len(log.writers):
        raise ConfigError(f"config.log.writers={log.writers}: expected each of them once")
