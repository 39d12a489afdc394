"""The names of what stands in the directory of a run; scripts read them, so they stay."""

CONFIG = "config.json"  # what the run really used, after all overrides
COMMAND = "command.json"  # of the newest start, and the config file before it changed any of it
DATA_REPORT = "data_report.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
ODD_STEPS = "odd_steps.jsonl"  # the rows of steps that were skipped, or whose loss leapt
EXAMPLES = "examples.jsonl"  # the rows of every step, by option
STARTS = "starts.jsonl"  # what each start of the run took its time for
SUMMARY = "summary.json"  # of a run that came to its end
REPORT = "report.html"
ERROR = "error.json"  # of a run that failed
LOCK = "lock.json"  # of a run that lasts: which process of which host
CHECKPOINTS = "checkpoints"
EXPORT = "export"
EXPORT_MERGED = "export_merged"  # the whole model of a run that trained an adapter
TENSORBOARD = "tensorboard"  # by option, as what follows
WANDB_RUN = "wandb.json"  # which run of W&B it is, and what that has
PROFILE = "profile"  # a trace of some steps
